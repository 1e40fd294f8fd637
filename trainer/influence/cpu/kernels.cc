// The CPU's kernels for influence scores. W is T here.
#include "trainer/influence/kernels.h"

#include <algorithm>

namespace cadre::trainer {
namespace {

using device::Queue;
using device::View;

constexpr int64_t kGrain = 1 << 14;  // elements: below, starting threads costs more than it saves

template <class Body>
void for_rows(Queue& queue, int64_t rows, int64_t width, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width));
  device::cpu(queue).parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

template <class T>
void row_dots(Queue& queue, View<const T, 2> x, View<const T, 2> y, View<double, 1> score) {
  const int64_t width = x.dim(1);
  for_rows(queue, x.dim(0), width, [&](int64_t row) {
    const T* __restrict a = x.data() + row * width;
    const T* __restrict b = y.data() + row * width;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += double(a[i]) * double(b[i]);
    score[row] = sum;
  });
}

template <class T>
void lookup_dots(Queue& queue, View<const T, 2> b, View<const int32_t, 1> index, View<const T, 2> d,
                 View<double, 1> score) {
  const int64_t width = b.dim(1);
  for_rows(queue, b.dim(0), width, [&](int64_t row) {
    const T* __restrict in = b.data() + row * width;
    const T* __restrict direction = d.data() + index[row] * width;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += double(in[i]) * double(direction[i]);
    score[row] = sum;
  });
}

template <class T>
void scale_dots(Queue& queue, View<const T, 2> x, View<const device::wide_t<T>, 1> rstd, View<const T, 2> b,
                View<const T, 1> d, View<double, 1> score) {
  const int64_t width = x.dim(1);
  for_rows(queue, x.dim(0), width, [&](int64_t row) {
    const T* __restrict in = x.data() + row * width;
    const T* __restrict grad = b.data() + row * width;
    const T* __restrict direction = d.data();
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += double(in[i]) * double(grad[i]) * double(direction[i]);
    score[row] = sum * double(rstd[row]);
  });
}

// One thread: there are few numbers by now.
void add_to_tokens(Queue&, View<const double, 1> score, int64_t rows_per_token, View<double, 1> sums) {
  for (int64_t r = 0; r < score.size(); ++r) sums[r / rows_per_token] += score[r];
}

void add_lists_to_tokens(Queue&, View<const double, 1> score, View<const int32_t, 1> offsets,
                         View<const int32_t, 1> rows, View<double, 1> sums) {
  for (int64_t t = 0; t < sums.size(); ++t) {
    for (int32_t j = offsets[t]; j < offsets[t + 1]; ++j) sums[t] += score[rows[j]];
  }
}

template <class T>
void blend(Queue& queue, double keep, View<const T, 1> x, View<T, 1> mean) {
  const T old = T(keep), fresh = T(1 - keep);
  device::cpu(queue).parallel_for(x.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) mean[i] = old * mean[i] + fresh * x[i];
  });
}

template <class T>
void narrow(Queue& queue, View<const T, 1> x, View<T, 1> y) {
  device::cpu(queue).parallel_for(x.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = x[i];
  });
}

template <class T>
void add_dot(Queue&, View<const T, 1> x, View<const T, 1> y, View<double, 1> total) {
  double sum = 0;
  for (int64_t i = 0; i < x.size(); ++i) sum += double(x[i]) * double(y[i]);
  total[0] += sum;
}

}  // namespace

template <class T>
const InfluenceKernels<T>& cpu_influence_kernels() {
  static const InfluenceKernels<T> table = {.row_dots = row_dots<T>,
                                            .wide_row_dots = row_dots<T>,
                                            .lookup_dots = lookup_dots<T>,
                                            .scale_dots = scale_dots<T>,
                                            .add_to_tokens = add_to_tokens,
                                            .add_lists_to_tokens = add_lists_to_tokens,
                                            .blend = blend<T>,
                                            .blend_wide = blend<T>,
                                            .narrow = narrow<T>,
                                            .add_dot = add_dot<T>,
                                            .add_dot_wide = add_dot<T>};
  return table;
}

template const InfluenceKernels<float>& cpu_influence_kernels();
template const InfluenceKernels<double>& cpu_influence_kernels();

}  // namespace cadre::trainer
