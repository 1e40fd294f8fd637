#include "parallel/device/cuda/kernel_state.h"

#include <algorithm>

#include "parallel/device/cuda/accelerator_cuda.h"

namespace cadre::device::cuda {

Scratch::~Scratch() {
  for (void* block : blocks_) cudaFree(block);
}

// Grows in steps while small, so that the first shapes of a run do not leave a trail of blocks.
std::byte* Scratch::take(size_t bytes) {
  if (bytes > size_) {
    const size_t wanted = std::max(bytes, std::min(2 * size_, size_ + (size_t(64) << 20)));
    blocks_.push_back(accelerator_cuda().allocate(wanted));
    size_ = wanted;
  }
  return blocks_.empty() ? nullptr : static_cast<std::byte*>(blocks_.back());
}

}  // namespace cadre::device::cuda
