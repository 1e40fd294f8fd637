// Causal attention in tiles: scores of kTile queries against kTile keys at a time, softmax kept as running
// maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022, FlashAttention, alg. 1), the backward pass
// recomputes them from the log-sum-exp. Tiles that no query sees, above the diagonal or in other documents,
// cost nothing. Tiles live on the stack of the thread; a tile's products are BLAS calls on strided rows of q,
// k and v.
#include <algorithm>
#include <limits>

#include "parallel/device/cpu/blas.h"
#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {

namespace {

constexpr int64_t kTile = 128;

// Queries [q0, q1) of a sequence against its keys [k0, k1). Query i is key i + past.
struct Tile {
  int64_t q0, q1, k0, k1, past;
  int64_t rows() const { return q1 - q0; }
  int64_t cols() const { return k1 - k0; }
};

enum class Visible { kNone, kSome, kAll };

// segment: of this sequence, or null. Segments need not be sorted; sorted ones make the test exact.
Visible visibility(const Tile& t, const int32_t* segment) {
  if (t.k0 > t.q1 - 1 + t.past) return Visible::kNone;
  bool all = t.k1 - 1 <= t.q0 + t.past;
  if (segment != nullptr) {
    const auto [q_low, q_high] = std::minmax_element(segment + t.q0, segment + t.q1);
    const auto [k_low, k_high] = std::minmax_element(segment + t.k0, segment + t.k1);
    if (*q_high < *k_low || *k_high < *q_low) return Visible::kNone;
    all = all && *q_low == *q_high && *k_low == *k_high;
  }
  return all ? Visible::kAll : Visible::kSome;
}

template <class T>
void mask_scores(const Tile& t, const int32_t* segment, T* scores) {
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  for (int64_t i = t.q0; i < t.q1; ++i) {
    T* row = scores + (i - t.q0) * kTile;
    const int64_t seen = std::clamp<int64_t>(i + t.past + 1 - t.k0, 0, t.cols());
    std::fill(row + seen, row + t.cols(), kHidden);
    if (segment == nullptr) continue;
    const int32_t own = segment[i];
    const int32_t* keys = segment + t.k0;
#pragma omp simd
    for (int64_t j = 0; j < seen; ++j) row[j] = keys[j] == own ? row[j] : kHidden;
  }
}

// Turns a row of scores into weights relative to the running maximum, and rescales what was summed under an
// older one.
template <class T>
void online_softmax(T* __restrict scores, int64_t cols, T& largest, T& sum, T* __restrict out, int64_t width,
                    bool first) {
  T now = largest;
#pragma omp simd reduction(max : now)
  for (int64_t j = 0; j < cols; ++j) now = now < scores[j] ? scores[j] : now;
  if (now ==
      -std::numeric_limits<T>::infinity()) {  // this query sees no key of this tile, nor of those before
    std::fill(scores, scores + cols, T(0));
    return;
  }
  T added = 0;
#pragma omp simd reduction(+ : added)
  for (int64_t j = 0; j < cols; ++j) {
    scores[j] = exp_of(scores[j] - now);
    added += scores[j];
  }
  if (!first && now != largest) {
    const T factor = exp_of(largest - now);
    sum *= factor;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) out[d] *= factor;
  }
  sum += added;
  largest = now;
}

// Rows of one head within (T, heads, h) memory.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride;
  T* row(int64_t i) const { return data + i * stride; }
};
template <class T>
HeadRows<T> head_rows(View<T, 3> x, int64_t first_row, int64_t head) {
  const int64_t stride = x.dim(1) * x.dim(2);
  return {x.data() + first_row * stride + head * x.dim(2), stride};
}

template <class T>
void attend_tile_row(const AttentionShape& shape, int64_t q0, HeadRows<const T> q, HeadRows<const T> k,
                     HeadRows<const T> v, const int32_t* segment, HeadRows<T> out, T* lse,
                     int64_t lse_stride) {
  alignas(64) T scores[kTile * kTile];
  T largest[kTile], sum[kTile];
  const int64_t h = shape.head_dim, q1 = std::min(q0 + kTile, shape.seq_len),
                keys = shape.num_past + shape.seq_len;
  const T scale = T(1 / std::sqrt(double(h)));
  std::fill(largest, largest + kTile, -std::numeric_limits<T>::infinity());
  std::fill(sum, sum + kTile, T(0));
  bool first = true;
  for (int64_t k0 = 0; k0 < keys; k0 += kTile) {
    const Tile t{q0, q1, k0, std::min(k0 + kTile, keys), shape.num_past};
    const Visible visible = visibility(t, segment);
    if (visible == Visible::kNone) continue;
    blas_gemm(false, true, t.rows(), t.cols(), h, scale, q.row(q0), q.stride, k.row(k0), k.stride, T(0),
              scores, kTile);
    if (visible == Visible::kSome) mask_scores(t, segment, scores);
    for (int64_t r = 0; r < t.rows(); ++r) {
      online_softmax(scores + r * kTile, t.cols(), largest[r], sum[r], out.row(q0 + r), h, first);
    }
    blas_gemm(false, false, t.rows(), h, t.cols(), T(1), scores, kTile, v.row(k0), v.stride,
              first ? T(0) : T(1), out.row(q0), out.stride);
    first = false;
  }
  for (int64_t i = q0; i < q1; ++i) {
    const T inverse = T(1) / sum[i - q0];
    T* row = out.row(i);
#pragma omp simd
    for (int64_t d = 0; d < h; ++d) row[d] *= inverse;
    lse[i * lse_stride] = largest[i - q0] + std::log(sum[i - q0]);
  }
}

// weights := softmax weights from scores and lse; dweights := gradient of the scores, P (dP - sum_d dout
// out).
template <class T>
void score_gradient(T* __restrict weights, T* __restrict dweights, int64_t cols, T lse, T delta) {
#pragma omp simd
  for (int64_t j = 0; j < cols; ++j) {
    const T p = exp_of(weights[j] - lse);
    weights[j] = p;
    dweights[j] = p * (dweights[j] - delta);
  }
}

// One query head of one sequence; adds to dk and dv, which the heads of a group share.
template <class T>
struct HeadBackward {
  const AttentionShape& shape;
  HeadRows<const T> dout, q, k, v, out;
  const int32_t* segment;
  const T* lse;  // of the head, stride num_heads
  HeadRows<T> dq, dk, dv;

  void run() const {
    for (int64_t q0 = 0; q0 < shape.seq_len; q0 += kTile) {
      T delta[kTile];
      const int64_t q1 = std::min(q0 + kTile, shape.seq_len);
      for (int64_t i = q0; i < q1; ++i) {
        const T *a = dout.row(i), *b = out.row(i);
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < shape.head_dim; ++d) dot += a[d] * b[d];
        delta[i - q0] = dot;
      }
      for (int64_t k0 = 0; k0 < q1; k0 += kTile) {
        tile({q0, q1, k0, std::min(k0 + kTile, shape.seq_len), 0}, delta);
      }
    }
  }

  void tile(const Tile& t, const T* delta) const {
    const Visible visible = visibility(t, segment);
    if (visible == Visible::kNone) return;
    alignas(64) T weights[kTile * kTile], dweights[kTile * kTile];
    const int64_t rows = t.rows(), cols = t.cols(), h = shape.head_dim;
    const T scale = T(1 / std::sqrt(double(h)));
    blas_gemm(false, true, rows, cols, h, scale, q.row(t.q0), q.stride, k.row(t.k0), k.stride, T(0), weights,
              kTile);
    if (visible == Visible::kSome) mask_scores(t, segment, weights);
    blas_gemm(false, true, rows, cols, h, T(1), dout.row(t.q0), dout.stride, v.row(t.k0), v.stride, T(0),
              dweights, kTile);
    for (int64_t r = 0; r < rows; ++r) {
      score_gradient(weights + r * kTile, dweights + r * kTile, cols, lse[(t.q0 + r) * shape.num_heads],
                     delta[r]);
    }
    blas_gemm(true, false, cols, h, rows, T(1), weights, kTile, dout.row(t.q0), dout.stride, T(1),
              dv.row(t.k0), dv.stride);
    blas_gemm(true, false, cols, h, rows, scale, dweights, kTile, q.row(t.q0), q.stride, T(1), dk.row(t.k0),
              dk.stride);
    blas_gemm(false, false, rows, h, cols, scale, dweights, kTile, k.row(t.k0), k.stride, T(1), dq.row(t.q0),
              dq.stride);
  }
};

}  // namespace

template <class T>
void CpuKernels<T>::attention(Queue& queue, AttentionShape shape, View<const T, 3> q, View<const T, 3> k,
                              View<const T, 3> v, View<const int32_t, 1> segment, View<T, 3> out,
                              View<W, 2> lse) {
  assert(segment.empty() || shape.num_past == 0);
  const int64_t heads = shape.num_heads, length = shape.seq_len, keys = shape.num_past + length;
  const int64_t tiles = (length + kTile - 1) / kTile, group = heads / shape.num_kv_heads;
  cpu(queue).parallel_tasks(shape.num_sequences * heads * tiles, [&](int64_t task) {
    const int64_t tile = task % tiles, head = task / tiles % heads, sequence = task / tiles / heads;
    attend_tile_row<T>(
        shape, tile * kTile, head_rows(q, sequence * length, head),
        head_rows(k, sequence * keys, head / group), head_rows(v, sequence * keys, head / group),
        segment.empty() ? nullptr : segment.data() + sequence * length,
        head_rows(out, sequence * length, head), lse.data() + sequence * length * heads + head, heads);
  });
}

template <class T>
void CpuKernels<T>::attention_backward(Queue& queue, AttentionShape shape, View<const T, 3> dout,
                                       View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                                       View<const int32_t, 1> segment, View<const T, 3> out,
                                       View<const W, 2> lse, View<T, 3> dq, View<T, 3> dk, View<T, 3> dv) {
  assert(shape.num_past == 0);
  const int64_t heads = shape.num_heads, groups = shape.num_kv_heads, length = shape.seq_len;
  const int64_t rows = shape.num_sequences * length;
  for (View<T, 3> x : {dq, dk, dv})
    fill(queue, x.rows(0, rows).template reshape<1>({rows * x.dim(1) * x.dim(2)}), 0);
  // One task takes all query heads of a KV head, in order, since they add to the same dk and dv.
  cpu(queue).parallel_tasks(shape.num_sequences * groups, [&](int64_t task) {
    const int64_t sequence = task / groups, kv = task % groups, first = sequence * length;
    for (int64_t head = kv * heads / groups; head < (kv + 1) * heads / groups; ++head) {
      HeadBackward<T>{shape,
                      head_rows(dout, first, head),
                      head_rows(q, first, head),
                      head_rows(k, first, kv),
                      head_rows(v, first, kv),
                      head_rows(out, first, head),
                      segment.empty() ? nullptr : segment.data() + first,
                      lse.data() + first * heads + head,
                      head_rows(dq, first, head),
                      head_rows(dk, first, kv),
                      head_rows(dv, first, kv)}
          .run();
    }
  });
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
