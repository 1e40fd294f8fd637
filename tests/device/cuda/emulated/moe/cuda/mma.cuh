// Stands for moe/cuda/mma.cuh on the host: mma.m16n8k16 as the PTX ISA lays out its operands.
#pragma once

#include <cuda_runtime.h>

namespace cadre::moe::cuda {

inline float bf16_of_pair(uint32_t pair, int which) {
  return std::bit_cast<float>(which == 0 ? pair << 16 : pair & 0xffff0000u);
}

inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         int line = __builtin_LINE()) {
  auto& m = *emulated::machine;
  const int lane = emulated::lane();
  std::array<uint32_t, 4> left[4];  // of the four lanes of rows lane / 4 and 8 below
  const auto* all = m.meet({line, {a[0], a[1], a[2], a[3]}});
  for (int i = 0; i < 4; ++i) left[i] = all[lane / 4 * 4 + i].words;
  std::array<uint32_t, 4> right[2][4];  // of columns 2 (lane % 4) + {0, 1}
  all = m.meet({line, {b0, b1}});
  for (int column = 0; column < 2; ++column)
    for (int i = 0; i < 4; ++i) right[column][i] = all[(lane % 4 * 2 + column) * 4 + i].words;
  for (int h = 0; h < 2; ++h) {
    for (int column = 0; column < 2; ++column) {
      for (int k = 0; k < 16; ++k) {
        const size_t in = size_t(k % 8 / 2);
        d[h * 2 + column] += bf16_of_pair(left[in][size_t(k / 8 * 2 + h)], k % 2) *
                             bf16_of_pair(right[column][in][size_t(k / 8)], k % 2);
      }
    }
  }
}

}  // namespace cadre::moe::cuda
