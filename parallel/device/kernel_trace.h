// What ran on an accelerator, and when: the kernels and copies of a while, for profiles.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace cadre::device {

struct KernelSpan {
  std::string name;  // of the kernel, or of the kind of copy
  uint64_t stream = 0;
  int64_t begin_ns = 0, end_ns = 0;  // on std::chrono::steady_clock
  uint64_t bytes = 0;                // of a copy
};

// Records from its making on. One at a time in a process.
class KernelTrace {
 public:
  virtual ~KernelTrace() = default;
  // Waits for the device, ends the recording and returns everything in the order of its beginning.
  virtual std::vector<KernelSpan> finish() = 0;
};

// How a trace is begun: null where kernels cannot be recorded, with the reason.
struct TraceStart {
  std::unique_ptr<KernelTrace> trace;
  std::string why_not;
};

}  // namespace cadre::device
