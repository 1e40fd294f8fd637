// Stands for parallel/device/cuda/launch_behind.cuh on the host: grids of grid.h.
#pragma once

#include <cuda_runtime.h>

#include "parallel/device/cuda/check.h"

namespace cadre::device::cuda {

inline void wait_for_kernel_before() {
  emulated::wait_for_kernel_before();
}
inline void let_next_come() {}
inline void prefetch(const void* p) {
  emulated::expect_memory(p, 1);
}
inline void prefetch_bytes(const void* p, uint32_t bytes) {
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(p) % 16 != 0)
    throw std::runtime_error("a prefetch is not of whole units");
  emulated::expect_memory(p, bytes);
}

template <class... Params, class... Args>
void launch_with(int shared_bytes, bool behind, cudaStream_t, void (*kernel)(Params...), dim3 blocks,
                 dim3 threads, const Args&... args) {
  emulated::run_grid({blocks, threads, shared_bytes, behind}, [&] { kernel(args...); });
}
template <class... Params, class... Args>
void launch_behind_with(int shared_bytes, cudaStream_t stream, void (*kernel)(Params...), dim3 blocks,
                        dim3 threads, const Args&... args) {
  launch_with(shared_bytes, true, stream, kernel, blocks, threads, args...);
}
template <class... Params, class... Args>
void launch_behind(cudaStream_t stream, void (*kernel)(Params...), dim3 blocks, dim3 threads,
                   const Args&... args) {
  launch_with(0, true, stream, kernel, blocks, threads, args...);
}
template <class... Params, class... Args>
void launch(cudaStream_t stream, void (*kernel)(Params...), dim3 blocks, dim3 threads, const Args&... args) {
  launch_with(0, false, stream, kernel, blocks, threads, args...);
}

}  // namespace cadre::device::cuda
