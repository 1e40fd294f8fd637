#include "trainer/run/pace.h"

#include <fmt/format.h>

#include <algorithm>

namespace cadre::trainer {

void Pace::start(double seconds_before) {
  start_ = Clock::now();
  seconds_before_ = last_ = seconds_before;
}

double Pace::seconds() const {
  return seconds_before_ + std::chrono::duration<double>(Clock::now() - start_).count();
}

void Pace::step_took(double seconds) {
  // The first steps of a process are slower (cold caches, first touch of memory); forget them quickly.
  step_seconds_ = step_seconds_ == 0 ? seconds : 0.9 * step_seconds_ + 0.1 * seconds;
}

double Pace::left(const Progress& progress) const {
  return step_seconds_ * double(progress.total_steps - progress.step);
}

// The average wall time of a step so far, evaluations and checkpoints included, says how many steps fit. The number is
// settled when 60% of the time is over, before the decay of the usual schedules begins; after that it is only cut, when
// the recent pace says that the schedule would not end in time.
std::vector<Pace::Note> Pace::fit(TrainState& state, const StepReport& report) {
  const double limit = state.config().train.max_minutes * 60;
  if (limit <= 0) return {};
  constexpr uint64_t kFirstEstimate = 10;
  constexpr double kMargin = 0.98, kSettled = 0.6, kWeight = 0.05;
  std::vector<Note> notes;
  const uint64_t step = state.progress.step;
  uint64_t& total = state.progress.total_steps;
  const double last = report.seconds - last_;
  recent_ = recent_ == 0 ? last : (1 - kWeight) * recent_ + kWeight * last;
  last_ = report.seconds;
  const double left = std::max(0.0, kMargin * limit - report.seconds);
  if (state.counters.total_fixed) {
    total = std::min(total, step + uint64_t(left / recent_));
  } else if (step >= kFirstEstimate) {
    total =
        std::min(uint64_t(state.config().train.steps), step + uint64_t(left * double(step) / report.seconds));
    state.counters.total_fixed = report.seconds >= kSettled * limit;
    if (state.counters.total_fixed) {
      notes.push_back({"total_steps", fmt::format("about {} steps fit into {} minutes", total,
                                                  state.config().train.max_minutes)});
    }
  }
  total = std::max(total, step);
  if (report.seconds >= limit && step < total) {
    over_ = true;
    notes.push_back({"max_minutes", fmt::format("time is over at step {} of {}", step, total)});
  }
  return notes;
}

}  // namespace cadre::trainer
