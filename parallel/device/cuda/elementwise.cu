// SwiGLU (Shazeer 2020), sums, copies and fills: each reads and writes every element once, 16 bytes a thread.
#include <cassert>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

__device__ float sigmoid(float x) {
  return 1.0f / (1.0f + __expf(-x));
}

template <class T>
struct Swiglu {
  const T *gate, *up;
  T* y;
  template <int N>
  __device__ void run(int64_t i) const {
    float g[N], u[N];
    load<N>(gate + i, g);
    load<N>(up + i, u);
#pragma unroll
    for (int j = 0; j < N; ++j) g[j] *= sigmoid(g[j]) * u[j];
    store<N>(y + i, g);
  }
};

// silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g).
template <class T>
struct SwigluBackward {
  const T *dy, *gate, *up;
  T *dgate, *dup, *y;  // y may be null
  template <int N>
  __device__ void run(int64_t i) const {
    float d[N], g[N], u[N];
    load<N>(dy + i, d);
    load<N>(gate + i, g);
    load<N>(up + i, u);
    if (y != nullptr) {
      float out[N];
#pragma unroll
      for (int j = 0; j < N; ++j) out[j] = g[j] * (sigmoid(g[j]) * u[j]);  // as Swiglu rounds
      store<N>(y + i, out);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float s = sigmoid(g[j]), x = g[j];
      g[j] = d[j] * u[j] * s * (1.0f + x * (1.0f - s));
      u[j] = d[j] * x * s;
    }
    store<N>(dgate + i, g);
    store<N>(dup + i, u);
  }
};

template <class T>
struct Add {
  const T* x;
  T* y;
  template <int N>
  __device__ void run(int64_t i) const {
    float a[N], b[N];
    load<N>(x + i, a);
    load<N>(y + i, b);
#pragma unroll
    for (int j = 0; j < N; ++j) b[j] += a[j];
    store<N>(y + i, b);
  }
};

template <class T>
struct Accumulate {
  const T* x;
  float* sum;
  bool add;
  template <int N>
  __device__ void run(int64_t i) const {
    float a[N], b[N];
    load<N>(x + i, a);
    if (add) load_any<N>(sum + i, b);
#pragma unroll
    for (int j = 0; j < N; ++j) a[j] += add ? b[j] : 0.0f;
    store_any<N>(sum + i, a);
  }
};

template <class T>
struct Scale {
  T* x;
  float factor;
  template <int N>
  __device__ void run(int64_t i) const {
    float a[N];
    load<N>(x + i, a);
#pragma unroll
    for (int j = 0; j < N; ++j) a[j] *= factor;
    store<N>(x + i, a);
  }
};

template <class T>
struct Fill {
  T* x;
  float value;
  template <int N>
  __device__ void run(int64_t i) const {
    float a[N];
#pragma unroll
    for (int j = 0; j < N; ++j) a[j] = value;
    store<N>(x + i, a);
  }
};

}  // namespace

template <class T>
void CudaKernels<T>::swiglu(Queue& queue, View<const T, 2> gate, View<const T, 2> up, View<T, 2> y) {
  const Swiglu<native_t<T>> body{raw(gate), raw(up), raw(y)};
  map<kVec<T>>(queue, y.size(), all_aligned16(body.gate, body.up, body.y), body);
}

template <class T>
void CudaKernels<T>::swiglu_backward(Queue& queue, View<const T, 2> dy, View<const T, 2> gate,
                                     View<const T, 2> up, View<T, 2> dgate, View<T, 2> dup, View<T, 2> y) {
  const SwigluBackward<native_t<T>> body{raw(dy), raw(gate), raw(up), raw(dgate), raw(dup), raw(y)};
  map<kVec<T>>(queue, dy.size(), all_aligned16(body.dy, body.gate, body.up, body.dgate, body.dup, body.y),
               body);
}

template <class T>
void CudaKernels<T>::add(Queue& queue, View<const T, 1> x, View<T, 1> y) {
  assert(x.size() == y.size());
  const Add<native_t<T>> body{raw(x), raw(y)};
  map<kVec<T>>(queue, y.size(), all_aligned16(body.x, body.y), body);
}

template <class T>
void CudaKernels<T>::copy(Queue& queue, View<const T, 1> x, View<T, 1> y) {
  assert(x.size() == y.size());
  if (y.size() == 0) return;
  check(cudaMemcpyAsync(y.data(), x.data(), size_t(y.size()) * sizeof(T), cudaMemcpyDeviceToDevice,
                        stream(queue)));
}

template <class T>
void CudaKernels<T>::fill(Queue& queue, View<T, 1> x, double value) {
  if (value == 0) {
    if (x.size() > 0) check(cudaMemsetAsync(x.data(), 0, size_t(x.size()) * sizeof(T), stream(queue)));
    return;
  }
  const Fill<native_t<T>> body{raw(x), float(value)};
  map<kVec<T>>(queue, x.size(), aligned16(body.x), body);
}

template <class T>
void CudaKernels<T>::scale(Queue& queue, View<T, 1> x, double factor) {
  if (factor == 0) return fill(queue, x, 0);
  const Scale<native_t<T>> body{raw(x), float(factor)};
  map<kVec<T>>(queue, x.size(), aligned16(body.x), body);
}

template <class T>
void CudaKernels<T>::accumulate(Queue& queue, View<const T, 1> x, View<W, 1> sum) {
  assert(x.size() == sum.size());
  const Accumulate<native_t<T>> body{raw(x), sum.data(), true};
  map<kVec<T>>(queue, x.size(), all_aligned16(body.x, body.sum), body);
}

template <class T>
void CudaKernels<T>::widen(Queue& queue, View<const T, 1> x, View<W, 1> wide) {
  const Accumulate<native_t<T>> body{raw(x), wide.data(), false};
  map<kVec<T>>(queue, x.size(), all_aligned16(body.x, body.sum), body);
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
