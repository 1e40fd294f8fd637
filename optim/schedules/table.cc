// Every schedule, by name. Add a row here when you add a file.
#include <algorithm>

#include "optim/schedules/schedules.h"
#include "parallel/base/named_entry.h"

namespace cadre::optim {

const std::vector<base::Entry<ScheduleMaker>>& schedule_table() {
  static const std::vector<base::Entry<ScheduleMaker>> table = {
      {"constant", "the peak rate after the warm-up", make_constant},
      {"cosine", "half a cosine down to min", make_cosine},
      {"linear", "a straight line down to min", make_linear},
      {"wsd", "warm-up, stable, then linear decay to min", make_wsd},
  };
  return table;
}

std::unique_ptr<Schedule> make_schedule(base::Section section) {
  const std::string name = section.text("name", "wsd");
  return base::find_entry(schedule_table(), "schedule", section, name).make(section);
}

Warmup read_warmup(base::Section& section) {
  return {section.integer("warmup", 0, {.min = 0})};
}

double fraction(int64_t step, int64_t begin, int64_t end) {
  if (end <= begin) return step < end ? 0.0 : 1.0;
  return std::clamp(double(step - begin) / double(end - begin), 0.0, 1.0);
}

}  // namespace cadre::optim
