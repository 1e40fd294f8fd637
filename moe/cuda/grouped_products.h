// The three grouped products on CUDA, by way of computing them. Contracts are those of the entries of
// MoeKernels with the same names; offsets are read on the device.
#pragma once

#include <cuda_runtime_api.h>

#include "parallel/device/bf16.h"
#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::moe::cuda {

template <class T>
struct GroupedProducts {
  template <class U, int N>
  using View = device::View<U, N>;
  using Offsets = View<const int64_t, 1>;
  // Of grouped_gemm_between.
  void (*gemm)(cudaStream_t, View<const T, 2> a, View<const T, 3> w, Offsets begins, Offsets ends,
               View<T, 2> y);
  void (*dgrad)(cudaStream_t, View<const T, 2> b, View<const T, 3> w, Offsets, bool accumulate,
                View<T, 2> da);
  void (*wgrad)(device::Queue&, View<const T, 2> b, View<const T, 2> a, Offsets, bool accumulate,
                View<T, 3> dw);
};

// fp32 arithmetic on any shape, alignment and GPU; T = float and bf16.
template <class T>
const GroupedProducts<T>& simple_products();
// mma.sync, for sm_80 and newer; rows and bases of 16 bytes.
const GroupedProducts<device::bf16>& ampere_products();
// wgmma, for sm_90a alone; rows and bases of 16 bytes.
const GroupedProducts<device::bf16>& hopper_products();

// True when all bases and rows (of so many bf16 values) are multiples of 16 bytes, which copies in units of 16
// bytes need.
bool in_units(std::initializer_list<const void*> bases, std::initializer_list<int64_t> widths);

}  // namespace cadre::moe::cuda
