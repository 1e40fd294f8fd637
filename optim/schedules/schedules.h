// Makers of the schedules, one file each; schedules/table.cc lists them.
#pragma once

#include "optim/schedule.h"

namespace cadre::optim {

// What all schedules share: steps of linear warm-up, and the fraction of the peak rate that is reached at the
// end.
struct Warmup {
  int64_t steps = 0;
  // (step + 1) / steps while warming up; 1 or more afterwards.
  double factor(int64_t step) const { return steps == 0 ? 2.0 : double(step + 1) / double(steps); }
};
Warmup read_warmup(base::Section& section);
// 0 at the first step after `begin` .. 1 at `end` (which is one past the last step), clamped.
double fraction(int64_t step, int64_t begin, int64_t end);

std::unique_ptr<Schedule> make_constant(base::Section section);
std::unique_ptr<Schedule> make_cosine(base::Section section);
std::unique_ptr<Schedule> make_linear(base::Section section);
std::unique_ptr<Schedule> make_wsd(base::Section section);

}  // namespace cadre::optim
