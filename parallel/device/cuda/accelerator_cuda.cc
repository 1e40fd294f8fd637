#include "parallel/device/cuda/accelerator_cuda.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/image.h"
#include "parallel/device/cuda/kernel_trace_cuda.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::device::cuda {
namespace {

// CUDA packs versions as 1000 major + 10 minor.
std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// Why there is no device. The runtime says "insufficient driver" both for an old driver and for none; only
// the driver's version tells them apart.
std::string reason(cudaError_t status) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "no NVIDIA driver is installed; set device: cpu";
  if (status == cudaErrorInsufficientDriver) {
    return fmt::format(
        "the NVIDIA driver supports CUDA {}, this build needs {}; update the driver or set device: cpu",
        version_text(driver), version_text(runtime));
  }
  if (status == cudaSuccess || status == cudaErrorNoDevice) {
    return "the NVIDIA driver sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or set device: cpu";
  }
  return fmt::format("the NVIDIA driver failed: {} ({})", cudaGetErrorString(status),
                     cudaGetErrorName(status));
}

// Adds the device to the report; true when it can be used.
bool usable(int device, std::string& report) {
  cudaDeviceProp properties;
  if (cudaSetDevice(device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    (void)cudaGetLastError();
    report += fmt::format("GPU {} does not answer. ", device);
    return false;
  }
  const bool code = has_code_for_current_device();
  report += fmt::format("GPU {}: {}, sm_{}{}, {:.0f} GiB{}. ", device, properties.name, properties.major,
                        properties.minor, double(properties.totalGlobalMem) / 0x1p30,
                        code ? "" : " (no code for it in this build; see cmake/CadreCuda.cmake)");
  return code;
}

Probe probe() {
  Probe result;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (status != cudaSuccess || count == 0) {
    result.report = reason(status);
    return result;
  }
  int previous = 0;
  cudaGetDevice(&previous);
  // Devices are numbered from 0: those behind one that cannot be used are not offered.
  bool all = true;
  for (int device = 0; device < count; ++device) {
    all = usable(device, result.report) && all;
    if (all) ++result.num_devices;
  }
  cudaSetDevice(previous);
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
  return {DeviceKind::kCuda, "cuda", probe, make_queue, allocate, release, memory, trace_kernels, 989e12};
}

}  // namespace cadre::device::cuda
