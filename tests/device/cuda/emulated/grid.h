// Launches on the host: the blocks of a grid one after the other, in random order, each on a machine of its own. Device
// memory is closed to a block until all its threads have waited for the kernel before, where a kernel is launched behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include <vector_types.h>

// Device code's own.
extern dim3 blockIdx, blockDim, gridDim;

namespace cadre::emulated {

struct Grid {
  dim3 blocks, threads;
  int shared_bytes = 0;  // dynamic ones
  bool behind = false;   // it may come before the kernel before it has ended
};
// Throws std::runtime_error for what a GPU would do something undefined.
void run_grid(const Grid& grid, const std::function<void()>& kernel);
void wait_for_kernel_before();  // of a thread
// Of the thread that runs.
dim3 thread_index();
extern unsigned seed;  // of the next block

// An array that kernels declare as `extern __shared__`, as large as they are given at most. Poison when a block begins.
class DynamicShared {
 public:
  DynamicShared(void* data, size_t bytes);
};

// Device memory, filled with 0xff, with pages behind it that nothing may touch. of_host: no kernel writes it, so that one may
// read it before it waits.
std::byte* take_memory(size_t bytes, bool of_host);
inline std::byte* take_memory(size_t bytes) {
  return take_memory(bytes, false);
}
void expect_memory(const void* data, size_t bytes);  // throws where these are not all inside an array
void free_memory();                                  // all of it

}  // namespace cadre::emulated
