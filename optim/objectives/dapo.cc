// DAPO (arXiv 2503.14476, eq. 8): the clipped surrogate with a wider upper bound and a mean over tokens. Its dynamic
// sampling and overlong penalty belong to the rollout loop.
#include "optim/objectives/clipped.h"
#include "optim/objectives/makers.h"

namespace cadre::optim {

template <class T>
std::unique_ptr<Objective<T>> make_dapo(base::Section section) {
  return make_clipped<T>(section, {.eps_low = 0.2, .eps_high = 0.28}, {});
}
template std::unique_ptr<Objective<float>> make_dapo(base::Section);
template std::unique_ptr<Objective<double>> make_dapo(base::Section);

}  // namespace cadre::optim
