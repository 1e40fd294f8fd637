// Which experts the tokens of each domain go to: a tap that counts rows of experts by the domain of their tokens, in the
// steps whose line of metrics shows it. On the CPU, where the lists of rows can be read.
#pragma once

#include <string>
#include <vector>

#include "parallel/device/tap.h"
#include "trainer/run/model_state.h"

namespace cadre::trainer {

// (K, E) slots that experts computed, over the global batch, by layer.
struct LayerDomains {
  int layer = 0;
  std::vector<std::vector<double>> tokens;
};

class ExpertDomains final : public device::Tap<Real> {
 public:
  // The model is borrowed.
  ExpertDomains(ModelState& model, int num_domains);

  void begin_step(bool due);
  // The tap for one micro-batch: `inner` (may be null) sees everything, and this one counts when it is due. Collective
  // over the expert group.
  device::AnyTap* around(device::AnyTap* inner, const Batch& micro);
  // Sums over data ranks, empty when nothing was counted. Collective.
  std::vector<LayerDomains> finish();

  void on_linear(int param, device::View<const Real, 2> a, device::View<const Real, 2> b,
                 const int32_t* token, device::View<const int64_t, 1> group_offsets) override;
  void on_lookup(int param, device::View<const int32_t, 1> index, device::View<const Real, 2> b) override;
  void on_scale(int param, device::View<const Real, 2> x, device::View<const Real, 1> rstd,
                device::View<const Real, 2> b, int64_t rows_per_token) override;

 private:
  ModelState& model_;
  size_t domains_, experts_ = 0;
  int64_t max_tokens_;
  std::vector<int> slot_of_;          // by parameter: index into counts_ of its layer, -1 for others
  std::vector<LayerDomains> counts_;  // by MoE layer
  std::vector<int32_t> domain_of_;    // by token of the expert group, as Tap numbers them
  device::Tap<Real>* inner_ = nullptr;
  bool counting_ = false;
};

}  // namespace cadre::trainer
