// Mean cross-entropy of the trained tokens, in nats: L = -sum_t mask_t logp_t / trained tokens of the global
// batch.
#pragma once

#include "optim/objective.h"

namespace cadre::optim {

template <class T>
std::unique_ptr<Objective<T>> make_cross_entropy(base::Section section);

}  // namespace cadre::optim
