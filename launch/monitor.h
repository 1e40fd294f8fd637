// Watches the ranks of a run through their boxes (parallel/base/blackbox.h): names stragglers, notices a hang, and says
// afterwards what each rank did last. Only reads.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "parallel/base/blackbox.h"

namespace cadre::launch {

struct WatchOptions {
  double hang_seconds = 600;      // without any step, phase or collective on any rank; 0: never
  double straggler_factor = 1.5;  // of the median's busy time
  int straggler_steps = 50;       // in a row
};

class Monitor {
 public:
  using Clock = std::chrono::steady_clock;
  // `folder`: the run's ranks/. `tell` gets lines for the user.
  Monitor(std::filesystem::path folder, WatchOptions options, std::function<void(const std::string&)> tell);
  // Reads all boxes; returns why the job has to be ended, or an empty text.
  std::string look(Clock::time_point now = Clock::now());
  // The furthest step that any rank reported.
  uint64_t step() const { return step_; }

 private:
  void name_stragglers(const std::vector<base::BoxContents>& boxes);
  std::filesystem::path folder_;
  WatchOptions options_;
  std::function<void(const std::string&)> tell_;
  uint64_t beats_ = 0, step_ = 0;
  Clock::time_point last_beat_;
  struct Slow {
    uint64_t since_step;
    bool told;
  };
  std::map<int, Slow> slow_;  // by rank
};

// The boxes of the newest start, by rank; ranks without a readable box are left out.
std::vector<base::BoxContents> read_boxes(const std::filesystem::path& folder);
// Per rank: step, phase, collectives under way, last lines. `with_history` adds all recorded collectives.
std::string post_mortem(const std::vector<base::BoxContents>& boxes, bool with_history);

}  // namespace cadre::launch
