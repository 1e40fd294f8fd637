// Warm-up, stable, decay (Hu et al. 2024, MiniCPM, section 4): the peak rate until the last `decay` part of
// the steps, then a straight line to min.
#include "optim/schedules/schedules.h"

#include <algorithm>
#include <cmath>

namespace cadre::optim {
namespace {

class Wsd final : public Schedule {
 public:
  Wsd(Warmup warmup, double decay, double min) : warmup_(warmup), decay_(decay), min_(min) {}
  double factor(int64_t step, int64_t total_steps) const override {
    if (step < warmup_.steps) return warmup_.factor(step);
    const int64_t begin = total_steps - int64_t(std::llround(decay_ * double(total_steps)));
    return 1 - (1 - min_) * fraction(step, std::max(begin, warmup_.steps), total_steps);
  }

 private:
  Warmup warmup_;
  double decay_, min_;
};

}  // namespace

std::unique_ptr<Schedule> make_wsd(base::Section section) {
  const Warmup warmup = read_warmup(section);
  const double decay = section.number("decay", 0.2, {.min = 0, .max = 1});
  const double min = section.number("min", 0.0, {.min = 0, .max = 1});
  section.finish();
  return std::make_unique<Wsd>(warmup, decay, min);
}

}  // namespace cadre::optim
