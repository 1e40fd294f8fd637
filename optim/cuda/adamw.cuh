// The AdamW update as device code: one pass that reads gradient, master and moments and writes master, moments and
// the rounded value.
#pragma once

#include <cmath>

#include "optim/kernels.h"
#include "parallel/base/rng.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::optim::cuda {

// Philox of parallel/base/rng.h for a counter below 2^64 and stream 0.
__device__ inline uint4 random_words(uint64_t key, uint64_t counter) {
  uint4 c = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
    const uint32_t high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
    c = {high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// x rounded to a neighbour in bf16, up with the probability of its distance from the lower one (in magnitude).
__device__ inline float round_at_random(float x, uint32_t random) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return x;  // infinities and NaN
  return __uint_as_float((bits + (random & 0xffffu)) & 0xffff0000u);
}

// G, V, M: native types of the gradient, the value and the moments. value is null where it is the master.
template <class G, class V, class M>
struct AdamW {
  const G* grad;
  V* value;
  float* master;
  M *m, *v;
  float beta1, beta2, scale, eps, rate, root, keep;
  bool stochastic;
  uint64_t seed;
  int64_t first;

  // p -= lr (mhat / (sqrt(vhat) + eps) + decay p), with the corrections folded into rate and root.
  template <int N>
  __device__ void run(int64_t i) const {
    using device::cuda::load_any, device::cuda::store_any;
    float g[N], p[N], a[N], b[N];
    load_any<N>(grad + i, g);
    load_any<N>(master + i, p);
    load_any<N>(m + i, a);
    load_any<N>(v + i, b);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float x = g[j] * scale;
      a[j] = beta1 * a[j] + (1 - beta1) * x;
      b[j] = beta2 * b[j] + (1 - beta2) * x * x;
      p[j] = keep * p[j] - rate * a[j] / (sqrtf(b[j]) * root + eps);
    }
    store_any<N>(master + i, p);
    constexpr bool kRandomMoments = sizeof(M) == 2;
    if (kRandomMoments || stochastic) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const uint4 random = random_words(seed, uint64_t(first + i + j));
        if (stochastic) p[j] = round_at_random(p[j], random.x);
        if (kRandomMoments) {
          a[j] = round_at_random(a[j], random.y);
          b[j] = round_at_random(b[j], random.z);
        }
      }
    }
    store_any<N>(m + i, a);
    store_any<N>(v + i, b);
    if (value != nullptr) store_any<N>(value + i, p);
  }
};

}  // namespace cadre::optim::cuda
