// Keys and values in pages, and attention of single queries over them. A block takes one query and one of its heads; its
// warps share out the keys, keep a softmax of their own with a running maximum, and merge at the end
// in a fixed order. What bounds it is memory: each key and value is read once for every query head that sees it. The usual
// heads go by units of 16 bytes (paged_units.cuh), and read page_table, owner and length, which only the host may write,
// before they wait; here, any others: a warp takes four keys one after the other.
#include <cfloat>
#include <cmath>
#include <stdexcept>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/paged_units.cuh"
#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kWarps = kPagedWarps, kAhead = 4;

template <class T>
__global__ void store_kernel(int width, const T* k, const T* v, const int32_t* place, Pages<T> pages) {
  wait_for_kernel_before();
  const int64_t row = blockIdx.x;
  const int to = place[row];
  if (to < 0) return;
  const int64_t at = pages.at(to / pages.page_size, to % pages.page_size);
  for (int i = int(threadIdx.x); i < width; i += int(blockDim.x)) {
    pages.k[at + i] = k[row * width + i];
    pages.v[at + i] = v[row * width + i];
  }
}

template <int kBytes>
struct WordOf;
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

// E: elements of a head that a lane holds, next to each other; those at head_dim and beyond are 0.
template <class T, int E>
__device__ void load_lane(const T* row, int head_dim, float (&out)[E]) {
  constexpr int kBytes = E * int(sizeof(T));
  const int first = int(threadIdx.x) * E;
  if constexpr (kBytes == 4 || kBytes == 8 || kBytes == 16) {
    using Word = typename WordOf<kBytes>::type;
    if (head_dim == 32 * E && reinterpret_cast<uintptr_t>(row) % kBytes == 0) {
      const Word word = *reinterpret_cast<const Word*>(row + first);
      const T* e = reinterpret_cast<const T*>(&word);
#pragma unroll
      for (int i = 0; i < E; ++i) out[i] = to_float(e[i]);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < E; ++i) out[i] = first + i < head_dim ? to_float(row[first + i]) : 0.0f;
}

// out and sum are relative to 2^largest; scores are in units of log2 e.
template <int E>
struct Softmax {
  float largest = -FLT_MAX, sum = 0, out[E] = {};
  __device__ void add(float score, const float (&v)[E]) {
    const float now = fmaxf(largest, score), old = exp2f(largest - now), weight = exp2f(score - now);
    sum = sum * old + weight;
#pragma unroll
    for (int i = 0; i < E; ++i) out[i] = out[i] * old + weight * v[i];
    largest = now;
  }
};

template <class T, int E>
__global__ void __launch_bounds__(32 * kWarps)
    paged_attention_kernel(const T* q, Pages<const T> pages, int pages_per_row, const int32_t* page_table,
                           const int32_t* owner, const int32_t* length, float scale, T* __restrict__ out) {
  __shared__ float shared_out[kWarps][32 * E], shared_largest[kWarps], shared_sum[kWarps];
  wait_for_kernel_before();
  const int64_t row = blockIdx.x;
  const int head = int(blockIdx.y), heads = int(gridDim.y), h = pages.head_dim;
  const int warp = int(threadIdx.y), lane = int(threadIdx.x);
  const int kv_head = head / (heads / pages.kv_heads), count = length[row];
  const int32_t* table = page_table + int64_t(count > 0 ? owner[row] : 0) * pages_per_row;
  float query[E];
  load_lane<T, E>(q + (row * heads + head) * h, h, query);
#pragma unroll
  for (int i = 0; i < E; ++i) query[i] *= scale * kLog2E;
  Softmax<E> own;
  for (int begin = warp * kAhead; begin < count; begin += kWarps * kAhead) {
    float key[kAhead][E], value[kAhead][E], score[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int t = min(begin + j, count - 1);  // the last one again where there is no other
      const int64_t at = pages.at(table[t / pages.page_size], t % pages.page_size) + int64_t(kv_head) * h;
      load_lane<T, E>(pages.k + at, h, key[j]);
      load_lane<T, E>(pages.v + at, h, value[j]);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      score[j] = 0;
#pragma unroll
      for (int i = 0; i < E; ++i) score[j] = fmaf(query[i], key[j][i], score[j]);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) score[j] += __shfl_xor_sync(0xffffffffu, score[j], offset);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (begin + j < count) own.add(score[j], value[j]);
    }
  }
#pragma unroll
  for (int i = 0; i < E; ++i) shared_out[warp][lane * E + i] = own.out[i];
  if (lane == 0) shared_largest[warp] = own.largest, shared_sum[warp] = own.sum;
  merge_warps(shared_out, shared_largest, shared_sum, h, count > 0, out + (row * heads + head) * h);
}

}  // namespace

template <class T>
void CudaKernels<T>::store_kv(Queue& queue, View<const T, 3> k, View<const T, 3> v,
                              View<const int32_t, 1> place, KvPages<T> pages) {
  if (place.size() == 0) return;
  using N = native_t<T>;
  const int width = int(k.dim(1) * k.dim(2));
  launch_behind(stream(queue), store_kernel<N>, unsigned(place.dim(0)), 128, width, raw(k), raw(v),
                place.data(), device_pages<N>(pages));
}

template <class T>
void CudaKernels<T>::paged_attention(Queue& queue, View<const T, 3> q, KvPages<T> pages,
                                     View<const int32_t, 2> page_table, View<const int32_t, 1> owner,
                                     View<const int32_t, 1> length, View<T, 3> out) {
  if (q.size() == 0) return;
  using N = native_t<T>;
  const int64_t h = q.dim(2);
  if (h > 512) throw std::invalid_argument("generation on CUDA has heads of at most 512 elements");
  const int64_t bytes = h * int64_t(sizeof(T));
  const bool units = (bytes == 128 || bytes == 256 || bytes == 512) && pages.page_stride % kVec<T> == 0 &&
                     all_aligned16(q.data(), pages.k, pages.v);
  const auto kernel = units && bytes == 128   ? paged_units_kernel<N, 1>
                      : units && bytes == 256 ? paged_units_kernel<N, 2>
                      : units                 ? paged_units_kernel<N, 4>
                      : h <= 32               ? paged_attention_kernel<N, 1>
                      : h <= 64               ? paged_attention_kernel<N, 2>
                      : h <= 128              ? paged_attention_kernel<N, 4>
                      : h <= 256              ? paged_attention_kernel<N, 8>
                                              : paged_attention_kernel<N, 16>;
  launch_behind(stream(queue), kernel, dim3(unsigned(q.dim(0)), unsigned(q.dim(1))), dim3(32, kWarps), raw(q),
                device_pages<const N>(pages), int(page_table.dim(1)), page_table.data(), owner.data(),
                length.data(), 1 / std::sqrt(float(h)), raw(out));
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
