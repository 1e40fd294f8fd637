// Pieces of vectorised loops. Loops that call these stand under `#pragma omp simd` (compiled with
// -fopenmp-simd, which brings no OpenMP runtime): the compiler may then reorder a reduction, always in the
// same way for one binary.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace cadre::device {

// exp without a library call, so that loops vectorise. x = n ln 2 + r with |r| <= ln 2 / 2; the Taylor
// polynomial of degree 7 leaves 6e-9 relative error, below float's rounding. Exactly 0 below -87 (where
// results would be subnormal), held at exp(88) above; NaN stays NaN.
inline float exp_of(float x) {
  constexpr float kLog2E = 1.44269504f;
  // ln 2 in two parts: n * kLn2High is exact for |n| < 2^9.
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  const float low = x < -87.0f ? -87.0f : x;
  const float clamped = low > 89.0f ? 89.0f : low;
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n; infinity for n = 128.
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
  return x < -87.0f ? 0.0f : p * scale;
}
inline double exp_of(double x) {
  return std::exp(x);
}

template <class T>
inline T sigmoid_of(T x) {
  return T(1) / (T(1) + exp_of(-x));
}

// Elements that are worth waking another thread for.
inline constexpr int64_t kGrain = 16384;
inline int64_t row_grain(int64_t row_elements) {
  return kGrain / (row_elements + 1) + 1;
}

// Space for partial sums of a reduction over tokens. Kept by the calling thread and grown on first use, so
// that steps after the first do not allocate.
template <class T>
T* reduction_scratch(int64_t size) {
  thread_local std::vector<T> scratch;
  if (int64_t(scratch.size()) < size) scratch.resize(size);
  return scratch.data();
}

}  // namespace cadre::device
