// Stands for parallel/device/cuda/flash_hopper_launch.h on the host: a launch is one block that makes all items.
#pragma once

#include "parallel/device/cuda/flash_hopper.cuh"

namespace cadre::device::cuda::hopper {

template <int kHead>
void launch_forward(const Params&, cudaStream_t);
template <int kHead>
void launch_dkv(const Params&, cudaStream_t);
template <int kHead>
void launch_dq(const Params&, cudaStream_t);

void launch_backward(const Params&, int blocks, cudaStream_t);

inline unsigned emulated_seed = 0;

template <class Kernel>
void launch(const Params& params, cudaStream_t) {
  static_assert(Kernel::kSharedBytes <= 232448, "of the 227 KiB that a block may have");
  emulated::Machine machine(emulated_seed);
  emulated::machine = &machine;
  const Kernel kernel{params, 0};
  kernel.barriers().init();
  machine.run(kConsumerWarps * 32 + 1, [&](int thread) {
    const int warp = thread / 32;
    warp == kConsumerWarps ? produce(kernel) : consume(kernel, warp, thread % 32);
  });
}

template <class Kernel>
void launch_four_roles(const Params& params, int, cudaStream_t) {
  static_assert(Kernel::kSharedBytes <= 232448, "of the 227 KiB that a block may have");
  emulated::Machine machine(emulated_seed);
  emulated::machine = &machine;
  const Kernel kernel{params, 0};
  for (int thread = 0; thread < kFourRoles; ++thread) kernel.clear(thread);
  kernel.init();
  blockIdx = {0, 0, 0};
  machine.run(12 * 32 + 1, [&](int thread) {
    const int warp = thread / 32;
    if (warp == 12) {
      kernel.produce();
    } else if (warp >= 8) {
      kernel.sum_queries(warp - 8, thread - 256);
    } else {
      kernel.keep_keys(warp, thread % 32);
    }
  });
}

}  // namespace cadre::device::cuda::hopper
