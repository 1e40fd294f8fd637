#include "parallel/device/cuda/accelerator_cuda.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/delivery_cuda.h"
#include "parallel/device/cuda/driver.h"
#include "parallel/device/cuda/image.h"
#include "parallel/device/cuda/kernel_trace_cuda.h"
#include "parallel/device/cuda/own_attention.h"
#include "parallel/device/cuda/peer_cuda.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/cuda/recording_cuda.h"
#include "parallel/device/cuda/snapshot_cuda.h"

namespace cadre::device::cuda {
namespace {

std::string reason(cudaError_t status) {
  DriverFacts facts = look_for_driver();
  facts.too_old = status == cudaErrorInsufficientDriver;
  if (status != cudaSuccess && status != cudaErrorNoDevice)
    facts.error = fmt::format("{} ({})", cudaGetErrorString(status), cudaGetErrorName(status));
  return why_no_gpu(facts);
}

// Adds the device to the report; true when it can be used. Takes no context: other ranks probe the same devices.
bool usable(int device, std::string& report) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    (void)cudaGetLastError();
    report += fmt::format("GPU {} does not answer. ", device);
    return false;
  }
  const bool code = has_code_for(properties.major, properties.minor);
  report += describe_gpu(device, properties.name, properties.major, properties.minor,
                         double(properties.totalGlobalMem) / 0x1p30, code) +
            ". ";
  return code;
}

// cuBLASLt's workspace, code that is loaded when first used, and the scratch of all kernels but attention.
constexpr size_t kLibraryBytes = size_t(512) << 20;

Probe probe() {
  Probe result;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (status != cudaSuccess || count == 0) {
    result.report = reason(status);
    return result;
  }
  // Devices are numbered from 0: those behind one that cannot be used are not offered.
  bool all = true;
  for (int device = 0; device < count; ++device) {
    all = usable(device, result.report) && all;
    if (all) ++result.num_devices;
  }
  result.report.pop_back();
  return result;
}

std::byte* allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(ExitCode::kUsage,
         "asked for {:.2f} GiB of GPU memory, {:.2f} of {:.2f} GiB are free; make the model or "
         "train.micro_batch smaller",
         double(bytes) / 0x1p30, double(free) / 0x1p30, double(total) / 0x1p30);
  }
  check(status);
  check(cudaMemset(data, 0, bytes));
  check(cudaDeviceSynchronize());  // queues use streams that do not wait for the default one
  return static_cast<std::byte*>(data);
}

void release(std::byte* data) noexcept {
  cudaFree(data);
}

DeviceMemory memory() {
  DeviceMemory result;
  check(cudaMemGetInfo(&result.free, &result.total));
  return result;
}

std::unique_ptr<Queue> make_queue(int device) {
  return std::make_unique<CudaQueue>(device);
}

}  // namespace

Accelerator accelerator_cuda() {
  return {.kind = DeviceKind::kCuda,
          .name = "cuda",
          .probe = probe,
          .make_queue = make_queue,
          .allocate = allocate,
          .release = release,
          .memory = memory,
          .make_snapshot = make_snapshot_cuda,
          .make_peer_port = make_peer_port_cuda,
          .make_recording = make_recording_cuda,
          .make_delivery = make_delivery_cuda,
          .trace_kernels = trace_kernels,
          .attention_workspace = attention_workspace,
          .library_bytes = kLibraryBytes,
          .peak_flops = 989e12};
}

}  // namespace cadre::device::cuda
