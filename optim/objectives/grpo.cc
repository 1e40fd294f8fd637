// GRPO (arXiv 2402.03300, eq. 3): the clipped surrogate on advantages of a group, averaged by sequence and then over
// sequences.
#include "optim/objectives/clipped.h"
#include "optim/objectives/makers.h"

namespace cadre::optim {

template <class T>
std::unique_ptr<Objective<T>> make_grpo(base::Section section) {
  return make_clipped<T>(section, {.eps_low = 0.2, .eps_high = 0.2},
                         {.aggregation = AggregationKind::kSeqMeanTokenMean});
}
template std::unique_ptr<Objective<float>> make_grpo(base::Section);
template std::unique_ptr<Objective<double>> make_grpo(base::Section);

}  // namespace cadre::optim
