#include "parallel/device/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "parallel/base/errors.h"
#include "parallel/device/accelerator.h"

namespace cadre::device {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector

}  // namespace

Buffer::Buffer(DeviceKind device, size_t bytes) : bytes_(bytes), device_(device) {
  if (device != DeviceKind::kCpu) {
    const Accelerator& backend = accelerator(device);
    data_ = bytes == 0 ? nullptr : backend.allocate(bytes);
    return;
  }
  if (bytes == 0) return;
  void* p =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(p != MAP_FAILED, ExitCode::kUsage,
          "cannot reserve {:.2f} GiB of memory: {}; make the model or the micro-batch smaller",
          bytes / 0x1p30, std::strerror(errno));
  // Large pages spare TLB misses in the big GEMMs. Only advice: a kernel without them is fine.
  constexpr size_t kLarge = size_t(4) << 20;
  if (bytes >= kLarge) ::madvise(p, bytes, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(p);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_ == DeviceKind::kCpu) {
    ::munmap(data_, bytes_);
  } else {
    accelerator(device_).release(data_);
  }
}

void Arena::allocate() {
  buffer_ =
      Buffer(device_, std::max(measured_, kAlignment));  // an empty arena too has ended its measuring pass
  data_ = buffer_.data();
  used_ = 0;
}

std::byte* Arena::take_bytes(size_t bytes) {
  constexpr size_t kMost = size_t(1) << 62;  // what is beyond came from a negative shape
  require(bytes < kMost && used_ < kMost, ExitCode::kUsage, "arena '{}': asked for {} bytes", name_, bytes);
  const size_t begin = (used_ + kAlignment - 1) / kAlignment * kAlignment;
  const size_t end = begin + bytes;
  if (measuring()) {
    used_ = end;
    measured_ = std::max(measured_, end);
    return nullptr;
  }
  require(end <= measured_, ExitCode::kUsage,
          "arena '{}': asked for {} bytes with {} in use, but the measuring pass found a need of {} in all; "
          "the calls "
          "after allocate() must be those before it",
          name_, bytes, used_, measured_);
  used_ = end;
  return data_ + begin;
}

}  // namespace cadre::device
