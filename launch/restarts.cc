#include "launch/restarts.h"

#include <algorithm>

#include "parallel/base/errors.h"

namespace cadre::launch {

std::optional<std::chrono::milliseconds> Restarts::after(int code, uint64_t step) {
  for (const ExitCode final :
       {ExitCode::kOk, ExitCode::kUsage, ExitCode::kData, ExitCode::kNumeric, ExitCode::kStopped}) {
    if (code == int(final)) return std::nullopt;
  }
  if (options_.limit == 0) return std::nullopt;
  if (last_step_ == step) {
    why_not_ = fmt::format("it failed twice at step {}; not started again", step);
    return std::nullopt;
  }
  if (count_ == options_.limit) {
    why_not_ = fmt::format("--restarts {} is used up", options_.limit);
    return std::nullopt;
  }
  const bool moved = !last_step_ || step > *last_step_;
  pause_ = moved ? options_.backoff : std::min(2 * pause_, options_.longest);
  last_step_ = step;
  ++count_;
  return pause_;
}

}  // namespace cadre::launch
