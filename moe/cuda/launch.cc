#include "moe/cuda/launch.h"

#include <map>
#include <mutex>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/kernel_state.h"
#include "parallel/device/cuda/multiprocessors.h"
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
namespace {

// By stream. A queue's counters outlive it, as recordings do that name them.
std::mutex claims_mutex;
std::map<cudaStream_t, int32_t*>& all_claims() {
  static auto* const kAll = new std::map<cudaStream_t, int32_t*>;
  return *kAll;
}

}  // namespace

int32_t* tile_claims(cudaStream_t stream) {
  const std::lock_guard lock(claims_mutex);
  const auto found = all_claims().find(stream);
  return found == all_claims().end() ? nullptr : found->second;
}
void let_others_run(device::Queue& queue) {
  const std::lock_guard lock(claims_mutex);
  int32_t*& counters = all_claims()[stream_of(queue)];
  if (counters != nullptr) return;
  void* memory = nullptr;
  device::cuda::check(cudaMalloc(&memory, 2 * sizeof(int32_t)));
  device::cuda::check(cudaMemset(memory, 0, 2 * sizeof(int32_t)));
  counters = static_cast<int32_t*>(memory);
}

int multiprocessors() {
  return device::cuda::multiprocessors();
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
