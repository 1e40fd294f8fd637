#include "parallel/device/cuda/attention_general.h"

#include <cfloat>
#include <cmath>

#include "parallel/device/cuda/vec.cuh"

namespace cadre::device::cuda {
namespace {

constexpr int kWarps = 4;
constexpr unsigned kAll = 0xffffffffu;

// What all kernels here read. Strides are in elements.
template <class T>
struct Problem {
  int length, past, heads, kv_heads, h;
  int64_t rows;  // queries over all sequences
  float scale;
  const T *q, *k, *v, *dout;
  const int32_t* segment;  // or null
  const float *lse, *delta;

  __device__ int64_t query_at(int64_t row, int head) const { return (row * heads + head) * h; }
  __device__ int64_t key_at(int64_t sequence, int key, int kv) const {
    return ((sequence * (past + length) + key) * kv_heads + kv) * h;
  }
  __device__ bool visible(int64_t sequence, int query, int key) const {
    if (key > query + past) return false;
    return segment == nullptr || segment[sequence * length + query] == segment[sequence * length + key];
  }
};

template <class T>
__device__ void read_row(const T* from, int h, float* to) {
  for (int d = int(threadIdx.x); d < h; d += 32) to[d] = to_float(from[d]);
}
template <class T>
__device__ float dot_row(const float* a, const T* b, int h) {
  float sum = 0;
  for (int d = 0; d < h; ++d) sum = fmaf(a[d], to_float(b[d]), sum);
  return sum;
}
// sum[d] += weight of each lane times the row that lane stands for; lane j's row is base + j * stride.
template <class T>
__device__ void add_rows(float* sum, const T* base, int64_t stride, float weight, unsigned live, int h) {
  for (int d = int(threadIdx.x); d < h + 31; d += 32) {
    float own = d < h ? sum[d] : 0;
    for (unsigned left = live; left != 0; left &= left - 1) {
      const int j = __ffs(int(left)) - 1;
      const float w = __shfl_sync(kAll, weight, j);
      if (d < h) own = fmaf(w, to_float(base[j * stride + d]), own);
    }
    if (d < h) sum[d] = own;
    if (d / 32 == (h - 1) / 32) break;
  }
}
__device__ float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, offset));
  return x;
}

// Rows of h floats of this warp in the block's shared memory.
template <int kRows>
__device__ void shared_rows(int h, float* (&rows)[kRows]) {
  extern __shared__ float memory[];
  for (int i = 0; i < kRows; ++i) rows[i] = memory + (int(threadIdx.y) * kRows + i) * h;
}

template <class T>
__global__ void forward_kernel(Problem<T> p, T* out, float* lse) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= p.rows) return;
  const int head = int(blockIdx.y), kv = head / (p.heads / p.kv_heads), lane = int(threadIdx.x);
  const int64_t sequence = row / p.length;
  const int query = int(row % p.length);
  float* rows[2];
  shared_rows(p.h, rows);
  float *own = rows[0], *sum = rows[1], largest = -FLT_MAX, total = 0;
  read_row(p.q + p.query_at(row, head), p.h, own);
  for (int d = lane; d < p.h; d += 32) sum[d] = 0;
  __syncwarp();
  for (int first = 0; first <= query + p.past; first += 32) {
    const int key = first + lane;
    const bool seen = p.visible(sequence, query, key);
    const unsigned live = __ballot_sync(kAll, seen);
    if (live == 0) continue;
    const T* keys = p.k + p.key_at(sequence, first, kv);
    const int64_t stride = int64_t(p.kv_heads) * p.h;
    const float score = seen ? p.scale * dot_row(own, keys + lane * stride, p.h) : -FLT_MAX;
    const float now = fmaxf(largest, warp_max(score)), factor = expf(largest - now);
    const float weight = seen ? expf(score - now) : 0;
    total = total * factor + warp_sum(weight);
    largest = now;
    for (int d = lane; d < p.h; d += 32) sum[d] *= factor;
    add_rows(sum, p.v + p.key_at(sequence, first, kv), stride, weight, live, p.h);
  }
  for (int d = lane; d < p.h; d += 32) out[p.query_at(row, head) + d] = from_float<T>(sum[d] / total);
  if (lane == 0) lse[row * p.heads + head] = largest + logf(total);
}

template <class T>
__global__ void dq_kernel(Problem<T> p, T* dq) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= p.rows) return;
  const int head = int(blockIdx.y), kv = head / (p.heads / p.kv_heads), lane = int(threadIdx.x);
  const int64_t sequence = row / p.length, stride = int64_t(p.kv_heads) * p.h;
  const int query = int(row % p.length);
  float* rows[3];
  shared_rows(p.h, rows);
  float *own = rows[0], *dout = rows[1], *sum = rows[2];
  read_row(p.q + p.query_at(row, head), p.h, own);
  read_row(p.dout + p.query_at(row, head), p.h, dout);
  for (int d = lane; d < p.h; d += 32) sum[d] = 0;
  __syncwarp();
  const float lse = p.lse[row * p.heads + head], delta = p.delta[row * p.heads + head];
  for (int first = 0; first <= query; first += 32) {
    const bool seen = p.visible(sequence, query, first + lane);
    const unsigned live = __ballot_sync(kAll, seen);
    if (live == 0) continue;
    const int64_t at = p.key_at(sequence, first, kv);
    float grad = 0;
    if (seen) {
      const float weight = expf(p.scale * dot_row(own, p.k + at + lane * stride, p.h) - lse);
      grad = p.scale * weight * (dot_row(dout, p.v + at + lane * stride, p.h) - delta);
    }
    add_rows(sum, p.k + at, stride, grad, live, p.h);
  }
  for (int d = lane; d < p.h; d += 32) dq[p.query_at(row, head) + d] = from_float<T>(sum[d]);
}

// One warp for a key and a KV head: the query heads of the group one after the other.
template <class T>
__global__ void dkv_kernel(Problem<T> p, T* dk, T* dv) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= p.rows) return;
  const int kv = int(blockIdx.y), group = p.heads / p.kv_heads, lane = int(threadIdx.x);
  const int64_t sequence = row / p.length, first_row = sequence * p.length,
                at = p.key_at(sequence, int(row % p.length), kv);
  const int64_t stride = int64_t(p.heads) * p.h;
  const int key = int(row % p.length);
  float* rows[4];
  shared_rows(p.h, rows);
  read_row(p.k + at, p.h, rows[0]);
  read_row(p.v + at, p.h, rows[1]);
  for (int d = lane; d < p.h; d += 32) rows[2][d] = rows[3][d] = 0;
  __syncwarp();
  for (int head = kv * group; head < (kv + 1) * group; ++head) {
    for (int first = key / 32 * 32; first < p.length; first += 32) {
      const int query = first + lane;
      const bool seen = query < p.length && p.visible(sequence, query, key);
      const unsigned live = __ballot_sync(kAll, seen);
      if (live == 0) continue;
      const int64_t base = p.query_at(first_row + first, head), stat = (first_row + query) * p.heads + head;
      float weight = 0, grad = 0;
      if (seen) {
        weight = expf(p.scale * dot_row(rows[0], p.q + base + lane * stride, p.h) - p.lse[stat]);
        grad = p.scale * weight * (dot_row(rows[1], p.dout + base + lane * stride, p.h) - p.delta[stat]);
      }
      add_rows(rows[2], p.q + base, stride, grad, live, p.h);
      add_rows(rows[3], p.dout + base, stride, weight, live, p.h);
    }
  }
  for (int d = lane; d < p.h; d += 32) {
    dk[at + d] = from_float<T>(rows[2][d]);
    dv[at + d] = from_float<T>(rows[3][d]);
  }
}

template <class T>
Problem<native_t<T>> problem(const AttentionShape& s, View<const T, 3> q, View<const T, 3> k,
                             View<const T, 3> v, View<const int32_t, 1> segment) {
  return {.length = int(s.seq_len),
          .past = int(s.num_past),
          .heads = int(s.num_heads),
          .kv_heads = int(s.num_kv_heads),
          .h = int(s.head_dim),
          .rows = s.num_sequences * s.seq_len,
          .scale = float(1 / std::sqrt(double(s.head_dim))),
          .q = raw(q),
          .k = raw(k),
          .v = raw(v),
          .dout = nullptr,
          .segment = segment.empty() ? nullptr : segment.data(),
          .lse = nullptr,
          .delta = nullptr};
}

// Dynamic shared memory of a block whose warps keep `rows` rows of h floats, within the 48 KiB that need no
// permission.
size_t shared_bytes(int rows, int64_t h) {
  return size_t(rows * kWarps * h) * sizeof(float);
}

}  // namespace

template <class T>
void general_attention(Queue& queue, const AttentionShape& s, View<const T, 3> q, View<const T, 3> k,
                       View<const T, 3> v, View<const int32_t, 1> segment, View<T, 3> out,
                       View<float, 2> lse) {
  const auto p = problem<T>(s, q, k, v, segment);
  const dim3 grid(unsigned(ceil_div(p.rows, kWarps)), unsigned(s.num_heads)), block(32, kWarps);
  forward_kernel<<<grid, block, shared_bytes(2, s.head_dim), stream(queue)>>>(p, raw(out), lse.data());
  launched();
}

template <class T>
void general_attention_backward(Queue& queue, const AttentionShape& s, View<const T, 3> dout,
                                View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                                View<const int32_t, 1> segment, View<const float, 2> lse, const float* delta,
                                View<T, 3> dq, View<T, 3> dk, View<T, 3> dv) {
  auto p = problem<T>(s, q, k, v, segment);
  p.dout = raw(dout);
  p.lse = lse.data();
  p.delta = delta;
  const dim3 block(32, kWarps);
  const auto blocks = unsigned(ceil_div(p.rows, kWarps));
  dq_kernel<<<dim3(blocks, unsigned(s.num_heads)), block, shared_bytes(3, s.head_dim), stream(queue)>>>(
      p, raw(dq));
  launched();
  dkv_kernel<<<dim3(blocks, unsigned(s.num_kv_heads)), block, shared_bytes(4, s.head_dim), stream(queue)>>>(
      p, raw(dk), raw(dv));
  launched();
}

#define CADRE_INSTANTIATE(T)                                                                                 \
  template void general_attention(Queue&, const AttentionShape&, View<const T, 3>, View<const T, 3>,         \
                                  View<const T, 3>, View<const int32_t, 1>, View<T, 3>, View<float, 2>);     \
  template void general_attention_backward(                                                                  \
      Queue&, const AttentionShape&, View<const T, 3>, View<const T, 3>, View<const T, 3>, View<const T, 3>, \
      View<const int32_t, 1>, View<const float, 2>, const float*, View<T, 3>, View<T, 3>, View<T, 3>);
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::device::cuda
