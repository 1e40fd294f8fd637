#include "parallel/device/cuda/driver.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>

namespace cadre::device::cuda {
namespace {

namespace fs = std::filesystem;

constexpr int kOldestMajor = 8;  // cmake/CadreCuda.cmake

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string first_word(const fs::path& file) {
  std::ifstream stream(file);
  std::string word;
  stream >> word;
  return word;
}

bool gpu_on_bus() {
  std::error_code code;
  for (fs::directory_iterator it("/sys/bus/pci/devices", code), end; !code && it != end; it.increment(code)) {
    const bool nvidia = first_word(it->path() / "vendor") == "0x10de";
    const std::string type = first_word(it->path() / "class");  // 0x0300.. VGA, 0x0302.. 3D controller
    if (nvidia && type.compare(0, 4, "0x03") == 0) return true;
  }
  return false;
}

bool library_loads() {
  void* handle = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (handle != nullptr) ::dlclose(handle);
  return handle != nullptr;
}

}  // namespace

DriverFacts look_for_driver() {
  DriverFacts facts;
  cudaDriverGetVersion(&facts.driver);
  cudaRuntimeGetVersion(&facts.runtime);
  (void)cudaGetLastError();
  std::error_code code;
  facts.gpu = gpu_on_bus();
  facts.module = fs::exists("/proc/driver/nvidia/version", code);
  facts.library = library_loads();
  facts.nodes = fs::exists("/dev/nvidiactl", code);
  return facts;
}

std::string why_no_gpu(const DriverFacts& f) {
  if (f.driver > 0) {
    if (f.too_old) {
      return fmt::format(
          "the NVIDIA driver is too old: it supports CUDA {}, this build needs {}; update the driver, or set "
          "device: cpu",
          version_text(f.driver), version_text(f.runtime));
    }
    if (f.error.empty())
      return "the NVIDIA driver sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or set device: cpu";
    return fmt::format("the NVIDIA driver failed: {}; look at nvidia-smi, or set device: cpu", f.error);
  }
  if (f.library) {
    return f.nodes ? "the NVIDIA driver does not answer, though its library and devices are there; look at "
                     "nvidia-smi, "
                     "or set device: cpu"
                   : "the library of the NVIDIA driver is there, but no device (/dev/nvidiactl); start the "
                     "container "
                     "with its GPUs (--gpus all), or set device: cpu";
  }
  if (f.module || f.nodes) {
    return "the NVIDIA driver is loaded, but its library libcuda.so.1 is not found; start the container with "
           "its GPUs "
           "(--gpus all), or set device: cpu";
  }
  if (f.gpu)
    return "an NVIDIA GPU is there, but no driver is installed or loaded; install it until nvidia-smi lists "
           "the GPU, or "
           "set device: cpu";
  return "no NVIDIA GPU and no NVIDIA driver on this machine; set device: cpu";
}

std::string describe_gpu(int index, const std::string& name, int major, int minor, double gib,
                         bool has_code) {
  const std::string line = fmt::format("GPU {}: {}, sm_{}{}, {:.0f} GiB", index, name, major, minor, gib);
  if (has_code) return line;
  if (major < kOldestMajor)
    return fmt::format("{}, is too old: this build needs sm_{}0 or newer; set device: cpu", line,
                       kOldestMajor);
  return fmt::format("{}, has no code in this build; build with its architecture (cmake/CadreCuda.cmake)",
                     line);
}

}  // namespace cadre::device::cuda
