#include "parallel/device/delivery.h"

#include <vector>

#include "parallel/device/accelerator.h"

namespace cadre::device {
namespace {

class CpuDelivery final : public Delivery {
 public:
  void start(const void* device, size_t bytes) override {
    const auto* const begin = static_cast<const std::byte*>(device);
    copy_.assign(begin, begin + bytes);
  }
  const std::byte* wait() override { return copy_.data(); }

 private:
  std::vector<std::byte> copy_;
};

}  // namespace

std::unique_ptr<Delivery> make_delivery(Queue& queue) {
  if (queue.kind() == DeviceKind::kCpu) return std::make_unique<CpuDelivery>();
  return accelerator(queue.kind()).make_delivery(queue);
}

}  // namespace cadre::device
