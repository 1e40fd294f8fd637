// Several kernels of DeviceKernels in one launch, for passes of generation: of so few rows that each of them is smaller than
// what it takes to start it. An entry is null where a device runs them one by one.
#pragma once

#include "parallel/device/kernels.h"

namespace cadre::device {

template <class T>
struct NewHeads {
  using W = wide_t<T>;
  View<const T, 3> q, k, v;  // as projected: (T, N, h), (T, G, h) twice
  View<const T, 1> q_weight,
      k_weight;  // of their norms: (h) for each head, or (N h) and (G h); empty: no norm
  double eps = 0;
  View<const int32_t, 1> position;  // (T), with table as for rope
  View<const W, 2> table;
  View<const int32_t, 1> place;  // (T) as for store_kv
  KvPages<T> pages;
  View<T, 3> q_out;  // may be q
};

template <class T>
struct GenerationKernels {
  // rms_norm of queries and keys, rounded to T; rope of both; then keys and values go to their pages, queries to q_out.
  void (*place_heads)(Queue&, const NewHeads<T>&) = nullptr;
};

template <class T>
const GenerationKernels<T>& generation_kernels(DeviceKind device);

}  // namespace cadre::device
