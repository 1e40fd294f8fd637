// A straight line from the peak rate to min.
#include "optim/schedules/schedules.h"

namespace cadre::optim {
namespace {

class Linear final : public Schedule {
 public:
  Linear(Warmup warmup, double min) : warmup_(warmup), min_(min) {}
  double factor(int64_t step, int64_t total_steps) const override {
    if (step < warmup_.steps) return warmup_.factor(step);
    return 1 - (1 - min_) * fraction(step, warmup_.steps, total_steps);
  }

 private:
  Warmup warmup_;
  double min_;
};

}  // namespace

std::unique_ptr<Schedule> make_linear(base::Section section) {
  const Warmup warmup = read_warmup(section);
  const double min = section.number("min", 0.0, {.min = 0, .max = 1});
  section.finish();
  return std::make_unique<Linear>(warmup, min);
}

}  // namespace cadre::optim
