// The table of kernels that influence scores need beside the GEMMs: one entry per operation, a table a device.
// A GEMM makes D a or D^T b of every row, and these reduce it to one number a row and a token. Sums are in double and in
// a fixed order; on CUDA a few terms at a time are added in float. No entry waits for the device.
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
  void (*wide_row_dots)(Queue&, View<const W, 2> x, View<const W, 2> y, View<double, 1> score);
  // score[r] = b[r] . d[index[r]]; b: (R, D), d: (V, D).
  void (*lookup_dots)(Queue&, View<const T, 2> b, View<const int32_t, 1> index, View<const T, 2> d,
                      View<double, 1> score);
  // score[r] = rstd[r] * sum_i b[r][i] x[r][i] d[i].
  void (*scale_dots)(Queue&, View<const T, 2> x, View<const W, 1> rstd, View<const T, 2> b,
                     View<const T, 1> d, View<double, 1> score);
  // sums[r / rows_per_token] += score[r], in the order of r; rows_per_token divides their number.
  void (*add_to_tokens)(Queue&, View<const double, 1> score, int64_t rows_per_token, View<double, 1> sums);
  // sums[t] += score[rows[j]] for j in [offsets[t], offsets[t + 1]), in the order of j.
  void (*add_lists_to_tokens)(Queue&, View<const double, 1> score, View<const int32_t, 1> offsets,
                              View<const int32_t, 1> rows, View<double, 1> sums);

  // ---- Directions, element by element ----
  // mean = keep mean + (1 - keep) x.
  void (*blend)(Queue&, double keep, View<const T, 1> x, View<W, 1> mean);
  void (*blend_wide)(Queue&, double keep, View<const W, 1> x, View<W, 1> mean);
  void (*narrow)(Queue&, View<const W, 1> x, View<T, 1> y);  // y = x
  // sum[0] += <x, y>.
  void (*add_dot)(Queue&, View<const T, 1> x, View<const T, 1> y, View<double, 1> sum);
  void (*add_dot_wide)(Queue&, View<const T, 1> x, View<const W, 1> y, View<double, 1> sum);
};

// The CPU table, for T = float and double.
template <class T>
const InfluenceKernels<T>& cpu_influence_kernels();
// The table for a device; throws Error(kUsage) when this build has none for it and this type.
template <class T>
const InfluenceKernels<T>& influence_kernels(device::DeviceKind device);

}  // namespace cadre::trainer
