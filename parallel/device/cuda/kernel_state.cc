#include "parallel/device/cuda/kernel_state.h"

#include <algorithm>

#include "parallel/device/cuda/check.h"

namespace cadre::device::cuda {

Scratch::~Scratch() {
  for (void* block : blocks_) cudaFree(block);
}

std::byte* Scratch::take(size_t bytes) {
  if (bytes > size_) {
    const size_t wanted = std::max(bytes, 2 * size_);
    void* block = nullptr;
    check(cudaMalloc(&block, wanted));
    blocks_.push_back(block);
    size_ = wanted;
  }
  return blocks_.empty() ? nullptr : static_cast<std::byte*>(blocks_.back());
}

}  // namespace cadre::device::cuda
