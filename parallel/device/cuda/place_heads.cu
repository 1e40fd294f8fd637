// Norms, rotation and the way into the pages of new queries, keys and values, a block for each of the three of a row. A
// thread takes N pairs (i, i + h/2) of a head at a time. The roundings are those of the kernels that it stands for; the
// sum of squares is made in another order.
#include <algorithm>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
struct Heads {
  const T *in, *weight;  // weight null: no norm
  T* out;
  int count;
  bool by_head;  // a norm for each head
};

template <class T>
struct Places {
  T *k, *v;
  int64_t page_stride;
  int page_size;
};

template <int N, class T>
__device__ float squares(const T* x, int width, int lane, int lanes) {
  float sum = 0;
  for (int i = lane * N; i < width; i += lanes * N) {
    float v[N];
    load<N>(x + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += v[j] * v[j];
  }
  return sum;
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    place_heads_kernel(Heads<T> q, Heads<T> k, const T* v, Places<T> pages, int h, float eps,
                       const int32_t* position, const float* table, const int32_t* place) {
  extern __shared__ float scale[];  // by head
  __shared__ float shared[kThreads / 32];
  wait_for_kernel_before();
  let_next_come();
  const int64_t row = blockIdx.x;
  const int lane = int(threadIdx.x), to = place[row], kv_width = k.count * h;
  if (blockIdx.y > 0 && to < 0) return;  // padding
  const int64_t at =
      to < 0 ? 0 : to / pages.page_size * pages.page_stride + int64_t(to % pages.page_size) * kv_width;
  if (blockIdx.y == 2) {
    for (int i = lane * N; i < kv_width; i += kThreads * N) {
      float x[N];
      load<N>(v + row * kv_width + i, x);
      store<N>(pages.v + at + i, x);
    }
    return;
  }
  const Heads<T> part = blockIdx.y == 0 ? q : k;
  const int width = part.count * h, half = h / 2, a_head = half / N;
  const T* in = part.in + row * width;
  T* out = blockIdx.y == 0 ? part.out + row * width : pages.k + at;
  if (part.weight != nullptr && part.by_head) {
    for (int head = lane / 32; head < part.count; head += kThreads / 32) {
      const float sum = warp_sum(squares<N>(in + head * h, h, lane % 32, 32));
      if (lane % 32 == 0) scale[head] = rsqrtf(sum / float(h) + eps);
    }
  } else if (part.weight != nullptr) {
    const float sum = block_sum<kThreads>(squares<N>(in, width, lane, kThreads), shared);
    for (int head = lane; head < part.count; head += kThreads) scale[head] = rsqrtf(sum / float(width) + eps);
  }
  __syncthreads();
  const float* angles = table + int64_t(position[row]) * h;
  for (int item = lane; item < part.count * a_head; item += kThreads) {
    const int head = item / a_head, i = (item - head * a_head) * N;
    float a[N], b[N];
    load<N>(in + head * h + i, a);
    load<N>(in + head * h + half + i, b);
    if (part.weight != nullptr) {
      const T* weight = part.weight + (part.by_head ? 0 : head * h) + i;
      float wa[N], wb[N];
      load<N>(weight, wa);
      load<N>(weight + half, wb);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        a[j] = to_float(from_float<T>(a[j] * (scale[head] * wa[j])));
        b[j] = to_float(from_float<T>(b[j] * (scale[head] * wb[j])));
      }
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float old = a[j], cosine = angles[i + j], sine = angles[half + i + j];
      a[j] = old * cosine - b[j] * sine;
      b[j] = b[j] * cosine + old * sine;
    }
    store<N>(out + head * h + i, a);
    store<N>(out + head * h + half + i, b);
  }
}

}  // namespace

template <class T>
void CudaKernels<T>::place_heads(Queue& queue, const NewHeads<T>& n) {
  if (n.q.size() == 0) return;
  using X = native_t<T>;
  const int h = int(n.q.dim(2)), heads = int(n.q.dim(1)), kv_heads = int(n.k.dim(1));
  const auto part = [&](View<const T, 3> in, View<const T, 1> weight, X* out) {
    return Heads<X>{raw(in), raw(weight), out, int(in.dim(1)), weight.size() == h};
  };
  const Heads<X> q = part(n.q, n.q_weight, raw(n.q_out)), k = part(n.k, n.k_weight, nullptr);
  const Places<X> pages{reinterpret_cast<X*>(n.pages.k), reinterpret_cast<X*>(n.pages.v), n.pages.page_stride,
                        int(n.pages.page_size)};
  const bool vector = h % (2 * kVec<T>) == 0 && n.pages.page_stride % kVec<T> == 0 &&
                      all_aligned16(q.in, q.weight, q.out, k.in, k.weight, raw(n.v), pages.k, pages.v);
  const auto kernel = vector ? place_heads_kernel<X, kVec<T>> : place_heads_kernel<X, 1>;
  const int shared = std::max(heads, kv_heads) * int(sizeof(float));
  launch_behind_with(shared, stream(queue), kernel, dim3(unsigned(n.q.dim(0)), 3), kThreads, q, k, raw(n.v),
                     pages, h, float(n.eps), n.position.data(), n.table.data(), n.place.data());
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
