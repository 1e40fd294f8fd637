// The CUDA entries of OptimKernels.
#include <algorithm>
#include <cassert>

#include "optim/cuda/adamw.cuh"
#include "optim/cuda/kernels_cuda.h"

namespace cadre::optim {
namespace cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::all_aligned16;
using device::cuda::ceil_div;
using device::cuda::kVec;
using device::cuda::launched;
using device::cuda::load;
using device::cuda::map;
using device::cuda::native_t;
using device::cuda::raw;
using device::cuda::store;
using device::cuda::stream;

template <class T>
using Wide = device::wide_t<T>;

template <class T, class G, class M>
void adamw_typed(Queue& queue, const AdamWStep& s, const AdamWTensors<T>& tensors, View<const G, 1> grad,
                 View<M, 1> m, View<M, 1> v) {
  using V = native_t<T>;
  constexpr bool kSame = std::is_same_v<T, Wide<T>>;
  const AdamW<native_t<G>, V, native_t<M>> body{.grad = raw(grad),
                                                .value = kSame ? nullptr : raw(tensors.value),
                                                .master = tensors.master.data(),
                                                .m = raw(m),
                                                .v = raw(v),
                                                .beta1 = float(s.beta1),
                                                .beta2 = float(s.beta2),
                                                .scale = float(s.grad_scale),
                                                .eps = float(s.eps),
                                                .rate = float(s.lr / s.correction1),
                                                .root = float(1 / std::sqrt(s.correction2)),
                                                .keep = float(1 - s.lr * s.weight_decay),
                                                .stochastic = s.stochastic && !kSame,
                                                .seed = s.seed,
                                                .first = s.first};
  map<kVec<V>>(queue, grad.size(),
               all_aligned16(body.grad, tensors.value.data(), body.master, body.m, body.v), body);
}

template <class T, class G>
void adamw_grad(Queue& queue, const AdamWStep& s, const AdamWTensors<T>& tensors, View<const G, 1> grad) {
  if (tensors.m_bf16.empty())
    return adamw_typed<T, G, Wide<T>>(queue, s, tensors, grad, tensors.m, tensors.v);
  adamw_typed<T, G, device::bf16>(queue, s, tensors, grad, tensors.m_bf16, tensors.v_bf16);
}

template <class T>
void adamw(Queue& queue, const AdamWStep& s, const AdamWTensors<T>& tensors) {
  if (tensors.grad_sum.empty()) return adamw_grad<T, T>(queue, s, tensors, tensors.grad);
  adamw_grad<T, Wide<T>>(queue, s, tensors, tensors.grad_sum);
}

// v may be null.
template <class M>
struct Precondition {
  const M* v;
  const float* grad;
  float* out;
  float root, eps;
  template <int N>
  __device__ void run(int64_t i) const {
    float g[N], a[N];
    load<N>(grad + i, g);
    if (v != nullptr) {
      load<N>(v + i, a);
#pragma unroll
      for (int j = 0; j < N; ++j) g[j] /= sqrtf(a[j]) * root + eps;
    }
    store<N>(out + i, g);
  }
};

template <class M>
void precondition_typed(Queue& queue, double correction2, double eps, View<const M, 1> v,
                        View<const float, 1> grad, View<float, 1> out) {
  const Precondition<native_t<M>> body{raw(v), grad.data(), out.data(), float(1 / std::sqrt(correction2)),
                                       float(eps)};
  map<4>(queue, grad.size(), all_aligned16(body.grad, body.out) && all_aligned16(body.v), body);
}

void precondition(Queue& queue, double correction2, double eps, View<const float, 1> v,
                  View<const device::bf16, 1> v_bf16, View<const float, 1> grad, View<float, 1> out) {
  if (!v_bf16.empty()) return precondition_typed(queue, correction2, eps, v_bf16, grad, out);
  precondition_typed(queue, correction2, eps, v, grad, out);
}

constexpr int kThreads = 256, kMaxBlocks = 1056;

// partial[block]: the sum of squares of the block's elements; a few at a time in float, then in double.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    square_kernel(int64_t n, const T* __restrict__ x, double* __restrict__ partial) {
  double sum = 0;
  const int64_t step = int64_t(gridDim.x) * kThreads * N;
#pragma unroll 4
  for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N; i < n; i += step) {
    float a[N], squares = 0;
    if (i + N <= n) {
      load<N>(x + i, a);
    } else {
      for (int j = 0; j < N; ++j) a[j] = i + j < n ? device::cuda::to_float(x[i + j]) : 0;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) squares = fmaf(a[j], a[j], squares);
    sum += squares;
  }
  __shared__ double shared[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads / 32; ++i) sum += shared[i];
  partial[blockIdx.x] = sum;
}

// sum += the partials, by one warp in a fixed order.
__global__ void add_partials_kernel(int count, const double* __restrict__ partial, double* __restrict__ out) {
  double sum = 0;
  for (int i = int(threadIdx.x); i < count; i += 32) sum += partial[i];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x == 0) *out += sum;
}

template <class T>
void add_squares_to(Queue& queue, View<const T, 1> x, double* partial, double* sum) {
  if (x.size() == 0) return;
  constexpr int N = kVec<T>;
  const int blocks = int(std::min<int64_t>(ceil_div(x.size(), kThreads * N * 4), kMaxBlocks));
  const auto kernel =
      device::cuda::aligned16(x.data()) ? square_kernel<native_t<T>, N> : square_kernel<native_t<T>, 1>;
  kernel<<<blocks, kThreads, 0, stream(queue)>>>(x.size(), raw(x), partial);
  launched();
  add_partials_kernel<<<1, 32, 0, stream(queue)>>>(blocks, partial, sum);
  launched();
}

template <class T>
void add_squares(Queue& queue, View<const T, 1> x, View<double, 1> sum) {
  add_squares_to(queue, x, device::cuda::scratch<double>(queue, kMaxBlocks), sum.data());
}

template <class T, class G>
struct Momentum {
  const G* grad;
  float* m;
  T* x;
  float mu, scale;
  bool nesterov;
  template <int N>
  __device__ void run(int64_t i) const {
    float g[N], a[N];
    load<N>(grad + i, g);
    load<N>(m + i, a);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[j] *= scale;
      a[j] = mu * a[j] + g[j];
      g[j] = nesterov ? g[j] + mu * a[j] : a[j];
    }
    store<N>(m + i, a);
    store<N>(x + i, g);
  }
};

template <class T, class G>
void momentum_typed(Queue& queue, double momentum, bool nesterov, double grad_scale, View<const G, 1> grad,
                    View<float, 1> m, View<T, 1> x) {
  const Momentum<native_t<T>, native_t<G>> body{raw(grad),       m.data(),          raw(x),
                                                float(momentum), float(grad_scale), nesterov};
  // Not a hot path: four elements are 16 bytes of float only.
  map<4>(queue, x.size(), all_aligned16(body.grad, body.m, body.x), body);
}

template <class T>
void momentum(Queue& queue, double momentum, bool nesterov, double grad_scale, View<const T, 1> grad,
              View<const Wide<T>, 1> grad_sum, View<Wide<T>, 1> m, View<T, 1> x) {
  if (grad_sum.empty()) return momentum_typed<T, T>(queue, momentum, nesterov, grad_scale, grad, m, x);
  momentum_typed<T, Wide<T>>(queue, momentum, nesterov, grad_scale, grad_sum, m, x);
}

template <class T>
struct Normalize {
  T* x;
  const double* squares;
  template <int N>
  __device__ void run(int64_t i) const {
    const float inverse = float(1 / (sqrt(*squares) + 1e-7));
    float a[N];
    load<N>(x + i, a);
#pragma unroll
    for (int j = 0; j < N; ++j) a[j] *= inverse;
    store<N>(x + i, a);
  }
};

template <class T>
void normalize(Queue& queue, View<T, 1> x) {
  double* memory = device::cuda::scratch<double>(queue, kMaxBlocks + 1);
  device::cuda::check(cudaMemsetAsync(memory, 0, sizeof(double), stream(queue)));
  add_squares_to<T>(queue, x, memory + 1, memory);
  const Normalize<native_t<T>> body{raw(x), memory};
  map<kVec<T>>(queue, x.size(), device::cuda::aligned16(body.x), body);
}

template <class T>
struct Subtract {
  const T* x;
  T* value;  // null where it is the master
  float* master;
  float keep, rate;
  template <int N>
  __device__ void run(int64_t i) const {
    float a[N], p[N];
    load<N>(x + i, a);
    load<N>(master + i, p);
#pragma unroll
    for (int j = 0; j < N; ++j) p[j] = keep * p[j] - rate * a[j];
    store<N>(master + i, p);
    if (value != nullptr) store<N>(value + i, p);
  }
};

template <class T>
void subtract(Queue& queue, double keep, double rate, View<const T, 1> x, View<T, 1> value,
              View<Wide<T>, 1> master) {
  constexpr bool kSame = std::is_same_v<T, Wide<T>>;
  const Subtract<native_t<T>> body{raw(x), kSame ? nullptr : raw(value), master.data(), float(keep),
                                   float(rate)};
  map<4>(queue, x.size(), all_aligned16(body.x, value.data(), body.master), body);
}

}  // namespace
}  // namespace cuda

template <class T>
const OptimKernels<T>& cuda_optim_kernels() {
  static const OptimKernels<T> table = {.adamw = cuda::adamw<T>,
                                        .precondition = cuda::precondition,
                                        .add_squares = cuda::add_squares<T>,
                                        .add_squares_wide = cuda::add_squares<device::wide_t<T>>,
                                        .momentum = cuda::momentum<T>,
                                        .normalize = cuda::normalize<T>,
                                        .subtract = cuda::subtract<T>};
  return table;
}
template const OptimKernels<float>& cuda_optim_kernels<float>();
template const OptimKernels<device::bf16>& cuda_optim_kernels<device::bf16>();

}  // namespace cadre::optim
