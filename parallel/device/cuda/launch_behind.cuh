// Launches, and what a kernel says to those before and behind it.
//
// Programmatic dependent launch (compute capability 9.0): blocks of a kernel come onto multiprocessors while the last ones
// of the kernel before it in the stream end, which hides what a launch costs, most of which short kernels feel. Such a
// kernel begins with wait_for_kernel_before() in every thread, before it touches any memory: what came before is done and
// visible then, also for whatever follows it. What it reads is no __restrict__ parameter: a const one is read through a
// cache that the wait does not touch (ld.global.nc), and any may be read before the wait, as it promises that nothing else
// changes what it points to while the kernel runs.
#pragma once

#include <cuda_runtime.h>

#include "parallel/device/cuda/check.h"

namespace cadre::device::cuda {

__device__ inline void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// In a kernel of few blocks: the next one's may come from now on, if it is launched this way, and wait for the end of this.
__device__ inline void let_next_come() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Brings a line of memory into the cache that all multiprocessors share: the only access that may come before the wait.
__device__ inline void prefetch(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}
// The same of `bytes` from p on, both multiples of 16. Compute capability 9.0.
__device__ inline void prefetch_bytes(const void* p, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes));
#endif
}

inline bool launches_overlap() {
  static const bool kDo = [] {
    int device = 0, major = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major >= 9;
  }();
  return kDo;
}
// shared_bytes: dynamic ones.
template <class... Params, class... Args>
void launch_with(int shared_bytes, bool behind, cudaStream_t stream, void (*kernel)(Params...), dim3 blocks,
                 dim3 threads, const Args&... args) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = behind && launches_overlap() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, args...));
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
// When the kernel before has ended.
template <class... Params, class... Args>
void launch(cudaStream_t stream, void (*kernel)(Params...), dim3 blocks, dim3 threads, const Args&... args) {
  launch_with(0, false, stream, kernel, blocks, threads, args...);
}

}  // namespace cadre::device::cuda
