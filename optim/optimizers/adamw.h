// AdamW with decoupled decay (Loshchilov & Hutter 2019, Alg. 2). The update is elementwise, so a shard of any
// size and alignment gives the same result as the whole.
#pragma once

#include "optim/optimizer.h"

namespace cadre::optim {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  // of rows with decay = true
  // Moments in bf16, rounded at random: a moment changes by less than half of bf16's spacing in most steps.
  bool narrow_moments = false;
  // The bf16 weights of a GPU are the masters rounded at random, and not to the nearest. fp32 weights are the masters.
  bool stochastic = false;
};
// Reads betas, eps and weight_decay; leaves other keys to the caller.
AdamWConfig read_adamw(base::Section& section);
// A rank's moments of a group, by Piece::state_offset: in W, or in bf16 and the others empty.
template <class W>
struct Moments {
  device::View<W, 1> m, v;
  device::View<device::bf16, 1> m_bf16, v_bf16;
};
// The update of one piece's elements; `updates` counts this one (t of the bias correction, from 1).
template <class T>
void adamw_piece(const OptimizerContext<T>& context, const AdamWConfig& config, device::Group group,
                 const comm::Piece& piece, double lr, double grad_scale, int64_t updates,
                 const Moments<device::wide_t<T>>& moments);
// The key of random rounding of a row's elements in that update.
uint64_t rounding_key(uint64_t seed, int64_t updates, const device::ParamRow& row);
// out = grad / (sqrt(vhat) + eps), as the last update left v of these moments; a copy before the first.
template <class T>
void adamw_precondition(const OptimizerContext<T>& context, const AdamWConfig& config, int64_t updates,
                        const Moments<device::wide_t<T>>& moments,
                        device::View<const device::wide_t<T>, 1> grad,
                        device::View<device::wide_t<T>, 1> out);

template <class T>
std::unique_ptr<Optimizer<device::wide_t<T>>> make_adamw(base::Section section, OptimizerContext<T> context);

}  // namespace cadre::optim
