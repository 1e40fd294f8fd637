// Half a cosine from the peak rate to min (Loshchilov & Hutter 2017, eq. 5, without restarts).
#include "optim/schedules/schedules.h"

#include <cmath>
#include <numbers>

namespace cadre::optim {
namespace {

class Cosine final : public Schedule {
 public:
  Cosine(Warmup warmup, double min) : warmup_(warmup), min_(min) {}
  double factor(int64_t step, int64_t total_steps) const override {
    if (step < warmup_.steps) return warmup_.factor(step);
    const double t = fraction(step, warmup_.steps, total_steps);
    return min_ + (1 - min_) * 0.5 * (1 + std::cos(std::numbers::pi * t));
  }

 private:
  Warmup warmup_;
  double min_;
};

}  // namespace

std::unique_ptr<Schedule> make_cosine(base::Section section) {
  const Warmup warmup = read_warmup(section);
  const double min = section.number("min", 0.1, {.min = 0, .max = 1});
  section.finish();
  return std::make_unique<Cosine>(warmup, min);
}

}  // namespace cadre::optim
