#include "parallel/device/snapshot.h"

#include <cstring>

#include "parallel/device/accelerator.h"

namespace cadre::device {
namespace {

// Copies at once: the host's own memory is as near as a copy of it.
class CpuSnapshot final : public Snapshot {
 public:
  void reserve(size_t) override {}  // pages are touched by the copies
  std::byte* begin(Queue& queue, size_t bytes) override {
    queue.wait();
    if (bytes > bytes_) {
      memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      bytes_ = bytes;
    }
    return memory_.get();
  }
  void copy(const void* device, std::byte* host, size_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
  }
  void end() override {}
  void hold(Queue&) override {}
  void wait() override {}

 private:
  std::unique_ptr<std::byte[]> memory_;
  size_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<Snapshot> make_snapshot(DeviceKind kind) {
  if (kind == DeviceKind::kCpu) return std::make_unique<CpuSnapshot>();
  return accelerator(kind).make_snapshot();
}

}  // namespace cadre::device
