// A function of the CUDA driver, by name and the version of CUDA (1000 major + 10 minor) whose form of it is meant, through the
// runtime: linking the driver's library would keep the program from starting on machines without one.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "parallel/device/cuda/check.h"

namespace cadre::device::cuda {

template <class Function>
Function driver_function(const char* name, unsigned version) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess)
    throw std::runtime_error(std::string("the NVIDIA driver has no ") + name + "; it needs CUDA 12 or newer");
  return reinterpret_cast<Function>(function);
}

}  // namespace cadre::device::cuda
