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

}  // namespace cadre::device::cuda::hopper
