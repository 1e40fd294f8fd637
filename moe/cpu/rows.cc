// Moving rows on the CPU: gather by index, weighted sums of rows.
#include <algorithm>

#include "moe/cpu/entries.h"

namespace cadre::moe {
namespace {

using device::cpu;
using device::Queue;
using device::View;
using device::wide_t;

template <class T>
void gather_rows(Queue& queue, View<const T, 2> x, View<const int32_t, 1> index, View<T, 2> out) {
  const int64_t width = out.dim(1);
  cpu(queue).parallel_for(out.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (index[i] >= 0) std::copy_n(x.data() + index[i] * width, width, out.data() + i * width);
  });
}

// out += w * row, the only inner loop of combine.
template <class T>
inline void add_scaled(T w, const T* __restrict row, int64_t width, T* __restrict out) {
#pragma omp simd
  for (int64_t d = 0; d < width; ++d) out[d] += w * row[d];
}

template <class T>
void combine_rows(Queue& queue, View<const T, 2> rows, View<const int32_t, 1> offsets,
                  View<const int32_t, 1> index, View<const wide_t<T>, 1> weight, bool accumulate,
                  View<T, 2> out) {
  const int64_t width = out.dim(1);
  cpu(queue).parallel_for(out.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* to = out.data() + i * width;
      if (!accumulate) std::fill_n(to, width, T(0));
      for (int32_t j = offsets[i]; j < offsets[i + 1]; ++j) {
        const T w = weight.data() ? T(weight[index[j]]) : T(1);
        add_scaled(w, rows.data() + index[j] * width, width, to);
      }
    }
  });
}

void slots_by_row(Queue&, View<const int32_t, 1> slot_row, View<int32_t, 1> row_offsets,
                  View<int32_t, 1> row_slots) {
  std::fill(row_offsets.begin(), row_offsets.end(), 0);
  const int64_t rows = row_offsets.dim(0) - 1;
  // Counts are kept one place ahead, so that row_offsets[i + 1] is first the next free place of row i, then
  // its end.
  for (const int32_t row : slot_row)
    if (row >= 0 && row + 2 <= rows) ++row_offsets[row + 2];
  for (int64_t i = 1; i <= rows; ++i) row_offsets[i] += row_offsets[i - 1];
  for (int64_t a = 0; a < slot_row.dim(0); ++a)
    if (slot_row[a] >= 0) row_slots[row_offsets[slot_row[a] + 1]++] = int32_t(a);
}

}  // namespace

template <class T>
void add_row_entries(MoeKernels<T>& table) {
  table.gather_rows = gather_rows<T>;
  table.combine_rows = combine_rows<T>;
  table.slots_by_row = slots_by_row;
}
template void add_row_entries(MoeKernels<float>&);
template void add_row_entries(MoeKernels<double>&);

}  // namespace cadre::moe
