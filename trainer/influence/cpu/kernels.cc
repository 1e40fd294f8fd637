// The CPU's kernels for influence scores.
#include "trainer/influence/kernels.h"

#include <algorithm>

#include "parallel/base/errors.h"

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

// One thread: a token's rows can stand anywhere, and there are few numbers by now.
void add_to_tokens(Queue&, View<const double, 1> score, const int32_t* token, int64_t rows_per_token,
                   View<double, 1> sums) {
  for (int64_t r = 0; r < score.size(); ++r)
    sums[token != nullptr ? token[r] : r / rows_per_token] += score[r];
}

template <class T>
void blend(Queue& queue, double keep, View<const T, 1> x, View<device::wide_t<T>, 1> mean) {
  using W = device::wide_t<T>;
  const W old = W(keep), fresh = W(1 - keep);
  device::cpu(queue).parallel_for(x.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) mean[i] = old * mean[i] + fresh * W(x[i]);
  });
}

template <class T>
void narrow(Queue& queue, View<const device::wide_t<T>, 1> x, View<T, 1> y) {
  device::cpu(queue).parallel_for(x.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = T(x[i]);
  });
}

template <class T>
double dot(Queue&, View<const T, 1> x, View<const T, 1> y) {
  double sum = 0;
  for (int64_t i = 0; i < x.size(); ++i) sum += double(x[i]) * double(y[i]);
  return sum;
}

}  // namespace

template <class T>
const InfluenceKernels<T>& cpu_influence_kernels() {
  static const InfluenceKernels<T> table = {.row_dots = row_dots<T>,
                                            .lookup_dots = lookup_dots<T>,
                                            .scale_dots = scale_dots<T>,
                                            .add_to_tokens = add_to_tokens,
                                            .blend = blend<T>,
                                            .narrow = narrow<T>,
                                            .dot = dot<T>};
  return table;
}

template <class T>
const InfluenceKernels<T>& influence_kernels(device::DeviceKind device) {
  require(device == device::DeviceKind::kCpu, ExitCode::kUsage,
          "influence scores have no kernels for this device in this build; set device: cpu");
  return cpu_influence_kernels<T>();
}

template const InfluenceKernels<float>& cpu_influence_kernels();
template const InfluenceKernels<double>& cpu_influence_kernels();
template const InfluenceKernels<float>& influence_kernels(device::DeviceKind);
template const InfluenceKernels<double>& influence_kernels(device::DeviceKind);

}  // namespace cadre::trainer
