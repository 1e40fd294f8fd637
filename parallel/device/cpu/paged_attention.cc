// Keys and values in pages, and attention of single queries over them: for each query and head a running softmax over
// blocks of at most kBlock keys of a page (the recurrence of attention.cc, one row at a time).
#include <algorithm>
#include <limits>

#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {
namespace {

constexpr int64_t kBlock = 64;

// `count` keys and values of one head, `stride` elements apart.
template <class T>
struct KeyBlock {
  const T *k, *v;
  int64_t count, stride;
};

template <class T>
struct RunningRow {
  const T* q;
  T* out;
  int64_t width;
  T scale;
  T largest = -std::numeric_limits<T>::infinity(), sum = 0;

  void add(const KeyBlock<T>& block) {
    T scores[kBlock];
    T now = largest;
    for (int64_t j = 0; j < block.count; ++j) {
      const T* __restrict key = block.k + j * block.stride;
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t d = 0; d < width; ++d) dot += q[d] * key[d];
      scores[j] = scale * dot;
      now = std::max(now, scores[j]);
    }
    const T factor = exp_of(largest - now);  // 0 at the first block
    sum *= factor;
    T* __restrict to = out;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) to[d] *= factor;
    for (int64_t j = 0; j < block.count; ++j) {
      const T weight = exp_of(scores[j] - now);
      sum += weight;
      const T* __restrict value = block.v + j * block.stride;
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) to[d] += weight * value[d];
    }
    largest = now;
  }
};

template <class T>
void attend(const KvPages<T>& pages, View<const int32_t, 1> table, int64_t length, int64_t kv_head,
            RunningRow<T> row) {
  std::fill_n(row.out, row.width, T(0));
  if (length == 0) return;
  const int64_t stride = pages.num_kv_heads * pages.head_dim;
  for (int64_t begin = 0; begin < length;) {
    const int64_t offset = begin % pages.page_size;
    const int64_t count = std::min({kBlock, pages.page_size - offset, length - begin});
    const int64_t at =
        table[begin / pages.page_size] * pages.page_stride + offset * stride + kv_head * pages.head_dim;
    row.add({pages.k + at, pages.v + at, count, stride});
    begin += count;
  }
  const T inverse = T(1) / row.sum;
  for (int64_t d = 0; d < row.width; ++d) row.out[d] *= inverse;
}

}  // namespace

template <class T>
void CpuKernels<T>::store_kv(Queue& queue, View<const T, 3> k, View<const T, 3> v,
                             View<const int32_t, 1> place, KvPages<T> pages) {
  const int64_t row = k.dim(1) * k.dim(2);
  cpu(queue).parallel_for(place.dim(0), row_grain(2 * row), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (place[t] < 0) continue;
      const int64_t at = place[t] / pages.page_size * pages.page_stride + place[t] % pages.page_size * row;
      std::copy_n(k.data() + t * row, row, pages.k + at);
      std::copy_n(v.data() + t * row, row, pages.v + at);
    }
  });
}

template <class T>
void CpuKernels<T>::paged_attention(Queue& queue, View<const T, 3> q, KvPages<T> pages,
                                    View<const int32_t, 2> page_table, View<const int32_t, 1> owner,
                                    View<const int32_t, 1> length, View<T, 3> out) {
  const int64_t heads = q.dim(1), h = q.dim(2), group = heads / pages.num_kv_heads;
  cpu(queue).parallel_tasks(q.dim(0), [&](int64_t t) {
    const View<const int32_t, 1> table = length[t] > 0 ? page_table[owner[t]] : View<const int32_t, 1>();
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t at = (t * heads + head) * h;
      attend<T>(
          pages, table, length[t], head / group,
          {.q = q.data() + at, .out = out.data() + at, .width = h, .scale = T(1 / std::sqrt(double(h)))});
    }
  });
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
