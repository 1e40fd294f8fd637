#include "moe/cuda/launch.h"

#include "parallel/base/errors.h"
#include "parallel/device/cuda/kernel_state.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::moe::cuda {
namespace {

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  device::cuda::check(cudaGetDevice(&device));
  device::cuda::check(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

device::cuda::CudaQueue& cuda_queue(device::Queue& queue) {
  return static_cast<device::cuda::CudaQueue&>(queue);
}

}  // namespace

cudaStream_t stream_of(device::Queue& queue) {
  return cuda_queue(queue).stream();
}
std::byte* scratch_of(device::Queue& queue, size_t bytes) {
  return cuda_queue(queue).state().scratch.take(bytes);
}
int multiprocessors() {
  static const int kCount = attribute(cudaDevAttrMultiProcessorCount);
  return kCount;
}
int compute_capability() {
  static const int kCapability =
      10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  return kCapability;
}

void check_experts(int64_t experts) {
  constexpr int64_t kMostExperts = 8192;  // one word of shared memory each
  require(experts <= kMostExperts, ExitCode::kUsage,
          "moe.num_experts = {} is more than the {} that run on a GPU; lower it, or set device: cpu", experts,
          kMostExperts);
}

}  // namespace cadre::moe::cuda
