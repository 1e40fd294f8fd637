#include "optim/clipping.h"

#include <cmath>

#include "parallel/device/transfer.h"

namespace cadre::optim {

template <class T>
void start_norm(const OptimizerContext<T>& context, double& squares) {
  device::Queue& queue = *context.queue;
  const device::View<double, 1> sum = context.store->square_sum();
  device::zero(queue, sum);
  for (int group = 0; group < device::kNumGroups; ++group) {
    if (!context.in_norm[group]) continue;
    const auto grads = context.store->grads(device::Group(group));
    const auto wide = context.store->grad_sums(device::Group(group));
    for (const comm::Piece& piece : joined(context.pieces[group], context.store->layout().table(), false)) {
      if (wide.empty()) {
        context.optim_kernels->add_squares(queue, grads.rows(piece.group_offset, piece.count), sum);
      } else {
        context.optim_kernels->add_squares_wide(queue, wide.rows(piece.group_offset, piece.count), sum);
      }
    }
  }
  device::download<double>(queue, sum, std::span(&squares, 1));
}

GradNorm finish_norm(double squares, comm::Communicator& data, double max_norm, double loss) {
  double sums[2] = {squares, loss};  // one collective
  data.all_reduce(std::span<double>(sums), comm::ReduceOp::kSum, "gradient norm");
  GradNorm result;
  result.loss = sums[1];
  result.norm = std::sqrt(sums[0]);
  result.finite = std::isfinite(sums[0]) && std::isfinite(sums[1]);
  if (max_norm > 0 && result.norm > max_norm) result.scale = max_norm / result.norm;
  return result;
}

template void start_norm(const OptimizerContext<float>&, double&);
template void start_norm(const OptimizerContext<double>&, double&);
template void start_norm(const OptimizerContext<device::bf16>&, double&);

}  // namespace cadre::optim
