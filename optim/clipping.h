// Global-norm clipping over sharded gradients (Pascanu et al. 2013). Each parameter counts once, whatever the
// layout.
#pragma once

#include "optim/optimizer.h"
#include "parallel/comm/communicator.h"

namespace cadre::optim {

struct GradNorm {
  double norm = 0;
  double scale = 1;    // min(1, max_norm / norm); 1 when max_norm is 0
  bool finite = true;  // norm and loss finite on every rank
};
// Collective over data ranks; waits for the queue. Sums of squares are in double, by fixed blocks. `loss` takes part in the finite
// check.
template <class T>
GradNorm global_norm(const OptimizerContext<T>& context, comm::Communicator& data, double max_norm,
                     double loss);

}  // namespace cadre::optim
