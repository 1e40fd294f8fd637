// Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): momentum, made
// orthogonal by a Newton-Schulz iteration. For rows of Update::kMatrix, one matrix at a time; everything else
// (embedding, head, norms, biases) gets AdamW. The update is scaled by 0.2 sqrt(max(rows, cols)), which gives
// it the root mean square of a typical AdamW update (Liu et al. 2025, arXiv 2502.16982, section 2.2), so one
// lr and one weight decay serve both.
#pragma once

#include "optim/optimizers/adamw.h"

namespace cadre::optim {

struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  int iterations = 5;  // of Newton-Schulz
  AdamWConfig adamw;   // its weight_decay holds for matrices too
};

// x <- approximately U V^T of its singular value decomposition: each of the quintic's iterations takes a
// singular value s to 3.4445 s - 4.7750 s^3 + 2.0315 s^5 (Jordan's coefficients: steepest at 0, so that small
// values grow fast; the result is within about 0.7 .. 1.2, not exactly 1). gram and gram2 are scratch of side
// min(rows, cols), next has x's shape.
template <class T>
void newton_schulz(device::Queue& queue, const device::DeviceKernels<T>& kernels,
                   const OptimKernels<T>& optim_kernels, int iterations, device::View<T, 2> x,
                   device::View<T, 2> gram, device::View<T, 2> gram2, device::View<T, 2> next);

template <class T>
std::unique_ptr<Optimizer<device::wide_t<T>>> make_muon(base::Section section, OptimizerContext<T> context);

}  // namespace cadre::optim
