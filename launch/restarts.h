// When a run that ended badly is started again, and when not.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace cadre::launch {

struct RestartOptions {
  int limit = 10;                                               // restarts in all
  std::chrono::milliseconds backoff = std::chrono::seconds(5);  // doubles while no step is made in between
  std::chrono::milliseconds longest = std::chrono::minutes(5);
};

class Restarts {
 public:
  explicit Restarts(RestartOptions options) : options_(options) {}
  // The ranks ended with `code`, having reached `step`: the pause before the next start, or nothing and why_not().
  // Done, stopped on request, wrong usage, bad data and numeric failures are final; so is a second failure at the
  // same step, since what is deterministic comes again.
  std::optional<std::chrono::milliseconds> after(int code, uint64_t step);
  const std::string& why_not() const { return why_not_; }  // empty when there is nothing to explain
  int count() const { return count_; }

 private:
  RestartOptions options_;
  int count_ = 0;
  std::optional<uint64_t> last_step_;
  std::chrono::milliseconds pause_{0};
  std::string why_not_;
};

}  // namespace cadre::launch
