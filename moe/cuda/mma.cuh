// A warp's product of 16 x 16 by 16 x 8 bf16 values on the tensor cores (sm_80 and newer); PTX ISA, mma.m16n8k16: lane l has
// rows l / 4 and l / 4 + 8 and, of each 8 columns, 2 (l % 4) and the one behind.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace cadre::moe::cuda {

__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace cadre::moe::cuda
