// Signals and waits between GPUs. A wait is one warp that reads this GPU's own memory, a flag a lane, so that it
// takes one place on one multiprocessor whatever it waits for; no other kernel waits for a peer. Why that cannot deadlock is in
// docs/scaling.md.
#include <algorithm>

#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/peer_flags.h"
#include "parallel/device/peer.h"

namespace cadre::device::cuda {
namespace {

constexpr int kWarp = 32;
static_assert(kMostPeers <= kWarp);

struct Flags {
  uint64_t* at[kMostPeers];
  int count;
};

__device__ inline void store_release(uint64_t* p, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(value) : "memory");
}
__device__ inline uint64_t load_acquire(const uint64_t* p) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(p) : "memory");
  return value;
}
__device__ inline uint64_t nanoseconds() {
  uint64_t value;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value));
  return value;
}

__global__ void signal_kernel(Flags flags, uint64_t number) {
  // What earlier kernels of the stream wrote comes before this store in every GPU's eyes: their end is before this
  // kernel's beginning, and the fence makes that so for the whole system.
  __threadfence_system();
  if (int(threadIdx.x) < flags.count) store_release(flags.at[threadIdx.x], number);
}

__global__ void await_kernel(int lane, const uint64_t* flags, int count, uint64_t number, uint64_t timeout_ns,
                             PeerStatus* status) {
  // After one failure the rest of what was queued runs through: the host is about to end.
  const bool given_up = load_acquire(&status->missing) != 0;
  bool late = false;
  if (!given_up && int(threadIdx.x) < count) {
    const uint64_t* flag = flags + int(threadIdx.x) * kFlagStride;
    const uint64_t start = nanoseconds();
    while (!late && load_acquire(flag) < number) {
      __nanosleep(50);
      late = nanoseconds() - start > timeout_ns;
    }
  }
  const unsigned who = __ballot_sync(~0u, late);
  if (threadIdx.x != 0 || given_up) return;
  if (who != 0) {
    store_release(&status->missing, uint64_t(__ffs(int(who))));
  } else {
    store_release(&status->reached[lane], number);
  }
}

// One warp, before the blocks of other kernels that wait for a place: others wait for it.
template <class... Parameters, class... Arguments>
void launch_first(cudaStream_t stream, void (*kernel)(Parameters...), const Arguments&... arguments) {
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  cudaLaunchAttribute priority = {};
  priority.id = cudaLaunchAttributePriority;
  priority.val.priority = highest;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1);
  config.blockDim = dim3(kWarp);
  config.stream = stream;
  config.attrs = &priority;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

}  // namespace

void signal_flags(cudaStream_t stream, std::span<uint64_t* const> flags, uint64_t number) {
  Flags all = {};
  all.count = int(flags.size());
  std::copy(flags.begin(), flags.end(), all.at);
  launch_first(stream, signal_kernel, all, number);
}

void await_flags(cudaStream_t stream, int lane, const uint64_t* flags, int count, uint64_t number,
                 uint64_t timeout_ns, PeerStatus* status) {
  launch_first(stream, await_kernel, lane, flags, count, number, timeout_ns, status);
}

}  // namespace cadre::device::cuda
