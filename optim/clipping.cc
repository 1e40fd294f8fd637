#include "optim/clipping.h"

#include <cmath>

#include "parallel/device/transfer.h"

namespace cadre::optim {

template <class T>
void start_norm(const OptimizerContext<T>& context, double& squares, const BucketHook& need_sums) {
  device::Queue& queue = *context.queue;
  const device::ParamTable& table = context.store->layout().table();
  const device::View<double, 1> sum = context.store->square_sum();
  device::zero(queue, sum);
  std::vector<comm::Piece> pieces[device::kNumGroups];
  for (int g = 0; g < device::kNumGroups; ++g) {
    if (context.in_norm[g]) pieces[g] = joined(context.pieces[g], table, {.bucket = context.shared[g]});
  }
  const auto add = [&](device::Group group, const comm::Piece& piece) {
    const auto wide = context.store->own_grad_sums(group, piece.range());
    if (wide.empty()) {
      context.optim_kernels->add_squares(queue, context.store->own_grads(group, piece.range()), sum);
    } else {
      context.optim_kernels->add_squares_wide(queue, wide, sum);
    }
  };
  for_each_piece_backward(context, pieces, table, add, need_sums);
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

template void start_norm(const OptimizerContext<float>&, double&, const BucketHook&);
template void start_norm(const OptimizerContext<double>&, double&, const BucketHook&);
template void start_norm(const OptimizerContext<device::bf16>&, double&, const BucketHook&);

}  // namespace cadre::optim
