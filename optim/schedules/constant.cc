// The peak rate after the warm-up.
#include "optim/schedules/schedules.h"

#include <algorithm>

namespace cadre::optim {
namespace {

class Constant final : public Schedule {
 public:
  explicit Constant(Warmup warmup) : warmup_(warmup) {}
  double factor(int64_t step, int64_t) const override { return std::min(1.0, warmup_.factor(step)); }

 private:
  Warmup warmup_;
};

}  // namespace

std::unique_ptr<Schedule> make_constant(base::Section section) {
  const Warmup warmup = read_warmup(section);
  section.finish();
  return std::make_unique<Constant>(warmup);
}

}  // namespace cadre::optim
