#include "parallel/device/cuda/peer_cuda.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/peer_flags.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/peer_identity.h"

namespace cadre::device::cuda {
namespace {

struct CudaHandle {
  char host[64];  // ends with 0
  uint64_t process, address;
  int device;    // as its process counts
  char bus[32];  // PCI address, the same for all processes
  cudaIpcMemHandle_t memory;
};

// NCCL's users turn peer access off where it is broken; the other name is for this program alone.
void require_allowed() {
  const auto is = [](const char* name, std::string_view value) {
    const char* found = std::getenv(name);
    require(found == nullptr || found != value, ExitCode::kUsage,
            "{}={} in the environment: GPUs shall not read each other's memory", name, value);
  };
  is("NCCL_P2P_DISABLE", "1");
  is("CADRE_PEER_MEMORY", "0");
}

class CudaPeerPort final : public PeerPort {
 public:
  explicit CudaPeerPort(size_t bytes) {
    check(cudaGetDevice(&device_));
    beside_ = std::make_unique<CudaQueue>(device_);
    data_ = accelerator_cuda().allocate((bytes + kPeerPage - 1) / kPeerPage * kPeerPage);
    void* status = nullptr;
    check(cudaHostAlloc(&status, sizeof(PeerStatus), cudaHostAllocMapped | cudaHostAllocPortable));
    status_ = static_cast<PeerStatus*>(status);
    *status_ = {};
    for (cudaEvent_t* event : {&forked_, &joined_})
      check(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  }
  ~CudaPeerPort() override {
    for (const cudaEvent_t event : {forked_, joined_}) cudaEventDestroy(event);
    if (abandoned_) return;
    accelerator_cuda().release(data_);
    cudaFreeHost(status_);
  }

  std::byte* data() const override { return data_; }
  std::string handle_of(const std::byte* allocation) const override {
    CudaHandle own = {};
    host_identity().copy(own.host, sizeof own.host - 1);
    own.process = process_identity();
    own.address = reinterpret_cast<uintptr_t>(allocation);
    own.device = device_;
    check(cudaDeviceGetPCIBusId(own.bus, sizeof own.bus, device_));
    check(cudaIpcGetMemHandle(&own.memory, const_cast<std::byte*>(allocation)));
    return {reinterpret_cast<const char*>(&own), sizeof own};
  }
  std::byte* open(const std::string& handle) override {
    CudaHandle other;
    require(handle.size() == sizeof other, ExitCode::kComm, "a peer's handle has {} bytes, expected {}",
            handle.size(), sizeof other);
    std::memcpy(&other, handle.data(), sizeof other);
    require(!host_identity().empty() && host_identity() == other.host, ExitCode::kUsage,
            "the ranks of an expert group are on several hosts");
    if (other.process == process_identity()) {
      reach(other.device, other.bus, true);
      return reinterpret_cast<std::byte*>(uintptr_t(other.address));
    }
    int device = 0;
    // A GPU that this process was not given has no number here; opening its memory says whether it can be reached.
    if (cudaDeviceGetByPCIBusId(&device, other.bus) == cudaSuccess) reach(device, other.bus, false);
    (void)cudaGetLastError();
    void* memory = nullptr;
    const cudaError_t status = cudaIpcOpenMemHandle(&memory, other.memory, cudaIpcMemLazyEnablePeerAccess);
    (void)cudaGetLastError();
    require(status == cudaSuccess, ExitCode::kUsage, "the memory of GPU {} cannot be opened on GPU {}: {}",
            other.bus, device_, cudaGetErrorString(status));
    opened_.push_back(memory);
    return static_cast<std::byte*>(memory);
  }
  void close() override {
    check(cudaDeviceSynchronize());
    for (void* memory : opened_) check(cudaIpcCloseMemHandle(memory));
    opened_.clear();
  }
  void abandon() override { abandoned_ = true; }

  void signal(Queue& queue, std::span<uint64_t* const> flags, uint64_t number) override {
    signal_flags(stream_of(queue), flags, number);
  }
  void await(Queue& queue, int lane, const uint64_t* flags, int count, uint64_t number,
             std::chrono::milliseconds timeout) override {
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(timeout);
    await_flags(stream_of(queue), lane, flags, count, number, uint64_t(ns.count()), status_);
  }
  uint64_t reached(int lane) const override {
    return std::atomic_ref(status_->reached[lane]).load(std::memory_order_acquire);
  }
  int missing() const override {
    return int(std::atomic_ref(status_->missing).load(std::memory_order_acquire)) - 1;
  }

  // Addresses say by themselves which GPU they belong to.
  void copy(Queue& queue, void* to, const void* from, size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(queue)));
  }
  Queue& fork(Queue& queue) override {
    check(cudaEventRecord(forked_, stream_of(queue)));
    check(cudaStreamWaitEvent(beside_->stream(), forked_, 0));
    return *beside_;
  }
  void join(Queue& queue) override {
    check(cudaEventRecord(joined_, beside_->stream()));
    check(cudaStreamWaitEvent(stream_of(queue), joined_, 0));
  }

 private:
  static cudaStream_t stream_of(Queue& queue) { return static_cast<CudaQueue&>(queue).stream(); }

  // Throws when this GPU cannot read that one; inside a process it has to be told to.
  void reach(int device, const char* bus, bool enable) const {
    if (device == device_) return;
    int can = 0;
    check(cudaDeviceCanAccessPeer(&can, device_, device));
    require(can != 0, ExitCode::kUsage,
            "GPU {} cannot read the memory of GPU {} (no NVLink or PCIe peer access)", device_, bus);
    if (!enable) return;
    const cudaError_t status = cudaDeviceEnablePeerAccess(device, 0);
    (void)cudaGetLastError();
    if (status != cudaErrorPeerAccessAlreadyEnabled) check(status);
  }

  int device_ = 0;
  std::unique_ptr<CudaQueue> beside_;
  std::byte* data_ = nullptr;
  PeerStatus* status_ = nullptr;
  cudaEvent_t forked_ = nullptr, joined_ = nullptr;
  std::vector<void*> opened_;
  bool abandoned_ = false;
};

}  // namespace

std::unique_ptr<PeerPort> make_peer_port_cuda(size_t bytes) {
  require_allowed();
  return std::make_unique<CudaPeerPort>(bytes);
}

}  // namespace cadre::device::cuda
