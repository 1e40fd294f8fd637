#pragma once

#include <cuda_runtime.h>

#include "parallel/device/cuda/check.h"

namespace cadre::device::cuda {

// Of the device that was the current one when it was asked first: a process uses one.
inline int multiprocessors() {
  static const int kCount = [] {
    int device = 0, count = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    return count;
  }();
  return kCount;
}

}  // namespace cadre::device::cuda
