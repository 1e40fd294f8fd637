#include "parallel/device/recording.h"

#include "parallel/device/accelerator.h"

namespace cadre::device {
namespace {

class CpuRecording final : public Recording {
 public:
  void run(absl::FunctionRef<void()> body) override { body(); }
};

}  // namespace

std::unique_ptr<Recording> make_recording(Queue& queue) {
  if (queue.kind() == DeviceKind::kCpu) return std::make_unique<CpuRecording>();
  return accelerator(queue.kind()).make_recording(queue);
}

}  // namespace cadre::device
