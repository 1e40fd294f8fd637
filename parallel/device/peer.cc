// Ports in host memory, for ranks that are threads of one process.
#include "parallel/device/peer.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/base/errors.h"
#include "parallel/device/accelerator.h"
#include "parallel/device/memory.h"
#include "parallel/device/peer_identity.h"

namespace cadre::device {
namespace {

struct CpuHandle {
  uint64_t process = 0, address = 0;
};

class CpuPeerPort final : public PeerPort {
 public:
  explicit CpuPeerPort(size_t bytes) : memory_(std::make_unique<Buffer>(DeviceKind::kCpu, bytes)) {}

  std::byte* data() const override { return memory_->data(); }
  std::string handle_of(const std::byte* allocation) const override {
    const CpuHandle own = {process_identity(), reinterpret_cast<uintptr_t>(allocation)};
    return {reinterpret_cast<const char*>(&own), sizeof own};
  }
  std::byte* open(const std::string& handle) override {
    CpuHandle other;
    require(handle.size() == sizeof other, ExitCode::kComm, "a peer's handle has {} bytes, expected {}",
            handle.size(), sizeof other);
    std::memcpy(&other, handle.data(), sizeof other);
    require(other.process == process_identity(), ExitCode::kUsage,
            "on the CPU only threads of one process read each other's memory, and these ranks are processes");
    return reinterpret_cast<std::byte*>(uintptr_t(other.address));
  }
  void close() override {}
  void abandon() override {
    static std::mutex mutex;
    static std::vector<std::unique_ptr<Buffer>> kept;  // to the end of the process
    const std::lock_guard lock(mutex);
    kept.push_back(std::move(memory_));
  }

  void signal(Queue&, std::span<uint64_t* const> flags, uint64_t number) override {
    for (uint64_t* flag : flags) std::atomic_ref(*flag).store(number, std::memory_order_release);
  }
  void await(Queue&, int lane, const uint64_t* flags, int count, uint64_t number,
             std::chrono::milliseconds timeout) override {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    for (int i = 0; i < count; ++i) {
      const std::atomic_ref flag(const_cast<uint64_t&>(flags[i * kFlagStride]));
      while (flag.load(std::memory_order_acquire) < number) {
        if (std::chrono::steady_clock::now() >= deadline) {
          missing_ = i;
          fail(ExitCode::kComm, "rank {} did not come within {} ms", i, timeout.count());
        }
        std::this_thread::yield();
      }
    }
    reached_[lane] = number;
  }
  uint64_t reached(int lane) const override { return reached_[lane]; }
  int missing() const override { return missing_; }

  void copy(Queue&, void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  Queue& fork(Queue& queue) override { return queue; }
  void join(Queue&) override {}

 private:
  std::unique_ptr<Buffer> memory_;
  std::atomic<uint64_t> reached_[kPeerLanes] = {};
  std::atomic<int> missing_ = -1;
};

}  // namespace

std::unique_ptr<PeerPort> make_peer_port(DeviceKind kind, size_t bytes) {
  if (kind == DeviceKind::kCpu) return std::make_unique<CpuPeerPort>(bytes);
  return accelerator(kind).make_peer_port(bytes);
}

}  // namespace cadre::device
