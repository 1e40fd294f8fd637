// Log-probabilities of target tokens from logits, and the gradient in place. A block takes a row and reads it
// once: each thread keeps a running maximum and a sum relative to it (Milakov & Gimelshein 2018). Where the gradient is
// wanted at once, the row waits for its sum in shared memory.
#include <algorithm>
#include <cfloat>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kThreads = 512;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Sum of 2^(x - largest) over what was seen, in powers of two since the GPU has no other exponential.
struct RunningSum {
  float largest = -FLT_MAX, sum = 0;
  template <int N>
  __device__ void add(const float (&x)[N]) {
    float now = largest;
#pragma unroll
    for (int j = 0; j < N; ++j) now = fmaxf(now, x[j] * kLog2E);
    if (now > largest) {
      sum *= exp2f(largest - now);
      largest = now;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) sum += exp2f(fmaf(x[j], kLog2E, -now));  // NaN stays in the sum
  }
  __device__ void merge(float other_largest, float other_sum) {
    const float now = fmaxf(largest, other_largest);
    sum = sum * exp2f(largest - now) + other_sum * exp2f(other_largest - now);
    largest = now;
  }
};

__device__ RunningSum block_merge(RunningSum x) {
  __shared__ RunningSum shared[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float largest = __shfl_xor_sync(0xffffffffu, x.largest, offset);
    x.merge(largest, __shfl_xor_sync(0xffffffffu, x.sum, offset));
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
  for (int i = 1; i < kThreads / 32; ++i) x.merge(shared[i].largest, shared[i].sum);
  return x;
}

// Writes lse and logp of the row, and returns lse to every thread. keep(i, x) is called with all of the row.
template <class T, int N, class Keep>
__device__ float row_log_prob(int width, const T* __restrict__ row, int target, float* __restrict__ logp,
                              float* __restrict__ lse, const Keep& keep) {
  RunningSum own;
#pragma unroll 4
  for (int i = int(threadIdx.x) * N; i < width; i += kThreads * N) {
    float x[N];
    load<N>(row + i, x);
    own.add(x);
    keep(i, x);
  }
  const RunningSum all = block_merge(own);
  // log2 of the sum is added last: the sum lies between 1 and the width.
  const float result = (all.largest + log2f(all.sum)) * kLn2;
  if (threadIdx.x == 0) {
    *lse = result;
    *logp = to_float(row[target]) - result;
  }
  return result;
}

template <class T, int N>
__device__ void row_gradient(int width, const T* from, T* to, int target, float lse, float grad) {
  const float base = -lse * kLog2E;
#pragma unroll 4
  for (int i = int(threadIdx.x) * N; i < width; i += kThreads * N) {
    float x[N];
    load<N>(from + i, x);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      x[j] = -grad * exp2f(fmaf(x[j], kLog2E, base));
      if (i + j == target) x[j] += grad;
    }
    store<N>(to + i, x);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    log_prob_kernel(int width, const T* __restrict__ logits, const int32_t* __restrict__ target,
                    float* __restrict__ logp, float* __restrict__ lse) {
  const int64_t at = blockIdx.x;
  row_log_prob<T, N>(width, logits + at * width, target[at], logp + at, lse + at,
                     [](int, const float(&)[N]) {});
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    log_prob_backward_kernel(int width, T* __restrict__ logits, const int32_t* __restrict__ target,
                             const float* __restrict__ lse, const float* __restrict__ dlogp) {
  const int64_t at = blockIdx.x;
  T* row = logits + at * width;
  row_gradient<T, N>(width, row, row, target[at], lse[at], dlogp[at]);
}

// A thread reads back only what it put into shared memory, but the target's logit is read by one thread from a row
// that others overwrite: block_merge's barrier does not cover that read, so there is another.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    log_prob_and_grad_kernel(int width, T* __restrict__ logits, const int32_t* __restrict__ target,
                             const float* __restrict__ dlogp, float* __restrict__ logp,
                             float* __restrict__ lse) {
  extern __shared__ uint4 row_memory[];
  T* kept = reinterpret_cast<T*>(row_memory);
  const int64_t at = blockIdx.x;
  T* row = logits + at * width;
  const float result = row_log_prob<T, N>(width, row, target[at], logp + at, lse + at,
                                          [kept](int i, const float(&x)[N]) { store<N>(kept + i, x); });
  __syncthreads();
  row_gradient<T, N>(width, kept, row, target[at], result, dlogp[at]);
}

// Shared memory that a block of the kernel may ask for on this GPU, beside what it has anyway; allows it, which holds for the
// current device alone.
template <class Kernel>
int shared_limit(Kernel kernel) {
  static const int limit = [kernel] {
    int device = 0, most = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    cudaFuncAttributes own;
    check(cudaFuncGetAttributes(&own, kernel));
    return most - int(own.sharedSizeBytes);
  }();
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
  return limit;
}

}  // namespace

template <class T>
void CudaKernels<T>::log_prob(Queue& queue, View<const T, 2> logits, View<const int32_t, 1> target,
                              View<W, 1> logp, View<W, 1> lse) {
  if (logits.size() == 0) return;
  constexpr int N = kVec<T>;
  const bool vector = logits.dim(1) % N == 0 && aligned16(logits.data());
  const auto kernel = vector ? log_prob_kernel<native_t<T>, N> : log_prob_kernel<native_t<T>, 1>;
  kernel<<<unsigned(logits.dim(0)), kThreads, 0, stream(queue)>>>(int(logits.dim(1)), raw(logits),
                                                                  target.data(), logp.data(), lse.data());
  launched();
}

template <class T>
void CudaKernels<T>::log_prob_backward(Queue& queue, View<T, 2> logits, View<const int32_t, 1> target,
                                       View<const W, 1> lse, View<const W, 1> dlogp) {
  if (logits.size() == 0) return;
  constexpr int N = kVec<T>;
  const bool vector = logits.dim(1) % N == 0 && aligned16(logits.data());
  const auto kernel =
      vector ? log_prob_backward_kernel<native_t<T>, N> : log_prob_backward_kernel<native_t<T>, 1>;
  kernel<<<unsigned(logits.dim(0)), kThreads, 0, stream(queue)>>>(int(logits.dim(1)), raw(logits),
                                                                  target.data(), lse.data(), dlogp.data());
  launched();
}

template <class T>
void CudaKernels<T>::log_prob_and_grad(Queue& queue, View<T, 2> logits, View<const int32_t, 1> target,
                                       View<const W, 1> dlogp, View<W, 1> logp, View<W, 1> lse) {
  if (logits.size() == 0) return;
  constexpr int N = kVec<T>;
  const int bytes = int(std::min<int64_t>(logits.dim(1) * int64_t(sizeof(T)), 1 << 30));
  const bool vector = logits.dim(1) % N == 0 && aligned16(logits.data());
  if (!vector || bytes > shared_limit(log_prob_and_grad_kernel<native_t<T>, N>)) {
    log_prob(queue, logits, target, logp, lse);
    return log_prob_backward(queue, logits, target, lse, dlogp);
  }
  log_prob_and_grad_kernel<native_t<T>, N>
      <<<unsigned(logits.dim(0)), kThreads, size_t(bytes), stream(queue)>>>(
          int(logits.dim(1)), raw(logits), target.data(), dlogp.data(), logp.data(), lse.data());
  launched();
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
