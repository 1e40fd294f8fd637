#include "optim/clipping.h"

#include <cmath>

#include "parallel/device/transfer.h"

namespace cadre::optim {

template <class T>
GradNorm global_norm(const OptimizerContext<T>& context, comm::Communicator& data, double max_norm,
                     double loss) {
  device::Queue& queue = *context.queue;
  const device::View<double, 1> squares = context.store->square_sum();
  device::zero(queue, squares);
  for (int group = 0; group < device::kNumGroups; ++group) {
    if (!context.in_norm[group]) continue;
    const auto grads = context.store->grads(device::Group(group));
    const auto wide = context.store->grad_sums(device::Group(group));
    for (const comm::Piece& piece : context.pieces[group]) {
      if (wide.empty()) {
        context.optim_kernels->add_squares(queue, grads.rows(piece.group_offset, piece.count), squares);
      } else {
        context.optim_kernels->add_squares_wide(queue, wide.rows(piece.group_offset, piece.count), squares);
      }
    }
  }
  double sums[2] = {0, loss};  // one collective: squares of this rank's slices, and its share of the loss
  device::download<double>(queue, squares, std::span(sums, 1));
  queue.wait();
  data.all_reduce(std::span<double>(sums), comm::ReduceOp::kSum, "gradient norm");
  GradNorm result;
  result.norm = std::sqrt(sums[0]);
  result.finite = std::isfinite(sums[0]) && std::isfinite(sums[1]);
  if (max_norm > 0 && result.norm > max_norm) result.scale = max_norm / result.norm;
  return result;
}

template GradNorm global_norm(const OptimizerContext<float>&, comm::Communicator&, double, double);
template GradNorm global_norm(const OptimizerContext<double>&, comm::Communicator&, double, double);
template GradNorm global_norm(const OptimizerContext<device::bf16>&, comm::Communicator&, double, double);

}  // namespace cadre::optim
