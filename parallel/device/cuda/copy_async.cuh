// Copies of 16 bytes from global to shared memory that a thread makes beside its other work (cp.async).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace cadre::device::cuda {

// 16 bytes from global to shared memory, beside what the thread does next. The thread itself sees those of all but the last
// kLeft groups after wait_for_copies<kLeft>(); others need a barrier then.
__device__ inline void copy_async(uint4* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
__device__ inline void end_copy_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
// What was copied, at once: of parts of it the compiler makes reads of two bytes.
__device__ inline uint4 read_copied(const uint4* from) {
  uint4 bits;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "r"(uint32_t(__cvta_generic_to_shared(from)))
               : "memory");
  return bits;
}

}  // namespace cadre::device::cuda
