// The clock of a run: wall time of training over all its processes, how long a step takes, and how many steps fit into
// train.max_minutes. All that decides comes from rank 0's clock (StepReport::seconds), so all ranks decide alike.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "trainer/run/step.h"

namespace cadre::trainer {

class Pace {
 public:
  struct Note {
    std::string event, message;
  };
  // From now on; `seconds_before` were spent by earlier processes, or up to the checkpoint that the run went back to.
  void start(double seconds_before);
  double seconds() const;  // this rank's clock, in every process of the run
  void step_took(double seconds);
  double left(const Progress& progress) const;  // seconds to the end, as far as the steps tell
  // Sets Progress::total_steps to what fits into max_minutes (0: no limit), and returns what there is to say about it.
  std::vector<Note> fit(TrainState& state, const StepReport& report);
  bool over() const { return over_; }  // the time is

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  double seconds_before_ = 0;
  double step_seconds_ = 0;       // moving average of steps alone, this rank's
  double last_ = 0, recent_ = 0;  // for fit: the clock, and the moving average of its steps
  bool over_ = false;
};

}  // namespace cadre::trainer
