// The table of kernels that influence scores need beside the GEMMs: one entry per operation, a table a device.
// A GEMM makes D a or D^T b of every row, and these reduce it to one number a row and a token. All sums are in
// double and in a fixed order.
#pragma once

#include <cstdint>

#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::trainer {

template <class T>
struct InfluenceKernels {
  using W = device::wide_t<T>;
  template <class U, int N>
  using View = device::View<U, N>;
  using Queue = device::Queue;

  // score[r] = x[r] . y[r]; x, y: (R, D).
  void (*row_dots)(Queue&, View<const T, 2> x, View<const T, 2> y, View<double, 1> score);
  // score[r] = b[r] . d[index[r]]; b: (R, D), d: (V, D).
  void (*lookup_dots)(Queue&, View<const T, 2> b, View<const int32_t, 1> index, View<const T, 2> d,
                      View<double, 1> score);
  // score[r] = rstd[r] * sum_i b[r][i] x[r][i] d[i].
  void (*scale_dots)(Queue&, View<const T, 2> x, View<const W, 1> rstd, View<const T, 2> b,
                     View<const T, 1> d, View<double, 1> score);
  // sums[token ? token[r] : r / rows_per_token] += score[r], in the order of r.
  void (*add_to_tokens)(Queue&, View<const double, 1> score, const int32_t* token, int64_t rows_per_token,
                        View<double, 1> sums);

  // ---- Directions, element by element ----
  void (*blend)(Queue&, double keep, View<const T, 1> x, View<W, 1> mean);  // mean = keep mean + (1 - keep) x
  void (*narrow)(Queue&, View<const W, 1> x, View<T, 1> y);                 // y = x
  double (*dot)(Queue&, View<const T, 1> x, View<const T, 1> y);
};

template <class T>
const InfluenceKernels<T>& cpu_influence_kernels();
// The table for a device; throws Error(kUsage) when this build has none for it.
template <class T>
const InfluenceKernels<T>& influence_kernels(device::DeviceKind device);

}  // namespace cadre::trainer
