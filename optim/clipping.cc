#include "optim/clipping.h"

#include <cmath>

namespace cadre::optim {

template <class T>
GradNorm global_norm(const OptimizerContext<T>& context, comm::Communicator& data, double max_norm,
                     double loss) {
  double sums[2] = {0, loss};  // one collective: squares of this rank's slices, and its share of the loss
  for (int group = 0; group < device::kNumGroups; ++group) {
    if (!context.in_norm[group]) continue;
    const device::View<const T, 1> grads = context.store->grads(device::Group(group));
    for (const comm::Piece& piece : context.pieces[group]) {
      sums[0] +=
          context.optim_kernels->sum_squares(*context.queue, grads.rows(piece.group_offset, piece.count));
    }
  }
  data.all_reduce(std::span<double>(sums), comm::ReduceOp::kSum, "gradient norm");
  GradNorm result;
  result.norm = std::sqrt(sums[0]);
  result.finite = std::isfinite(sums[0]) && std::isfinite(sums[1]);
  if (max_norm > 0 && result.norm > max_norm) result.scale = max_norm / result.norm;
  return result;
}

template GradNorm global_norm(const OptimizerContext<float>&, comm::Communicator&, double, double);
template GradNorm global_norm(const OptimizerContext<double>&, comm::Communicator&, double, double);

}  // namespace cadre::optim
