// Learning-rate schedules: a pure function of the step. One file a schedule in schedules/, one row in
// schedules/table.cc.
#pragma once

#include <memory>
#include <vector>

#include "parallel/base/table.h"

namespace cadre::optim {

class Schedule {
 public:
  virtual ~Schedule() = default;
  // Multiplies the peak rate at step 0 .. total_steps - 1. Warm-up: (step + 1) / warmup.
  virtual double factor(int64_t step, int64_t total_steps) const = 0;
};

using ScheduleMaker = std::unique_ptr<Schedule> (*)(base::Section);
const std::vector<base::Entry<ScheduleMaker>>& schedule_table();
std::unique_ptr<Schedule> make_schedule(base::Section section);

}  // namespace cadre::optim
