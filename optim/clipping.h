// Global-norm clipping over sharded gradients (Pascanu et al. 2013). Each parameter counts once, whatever the
// layout.
#pragma once

#include "optim/optimizer.h"
#include "parallel/comm/communicator.h"

namespace cadre::optim {

struct GradNorm {
  double loss = 0;  // summed over data ranks
  double norm = 0;
  double scale = 1;    // min(1, max_norm / norm); 1 when max_norm is 0
  bool finite = true;  // norm and loss finite on every rank
};
// Queues the squares of this rank's slices, summed in double by fixed blocks; there after the queue's next wait().
// need_sums(bucket) is called before the bucket's slices of shared groups are read, so that those which are summed
// already are read while others still come.
template <class T>
void start_norm(const OptimizerContext<T>& context, double& squares, const BucketHook& need_sums = {});
// The norm of all gradients. `loss`, this rank's share, takes part in the finite check. Collective over data ranks.
GradNorm finish_norm(double squares, comm::Communicator& data, double max_norm, double loss);

}  // namespace cadre::optim
