// Selection inside the step: before a batch is trained on, the model and a frozen reference score it, and tokens (Rho-1) or
// sequences (RHO-loss) on which the model lags the reference most are kept. It costs a forward pass of each over all
// candidates. The result does not depend on ranks or micro-batches, up to rounding of the losses.
#pragma once

#include <memory>

#include "data/loader.h"
#include "data/selector.h"
#include "trainer/run/dataset.h"
#include "trainer/run/model_state.h"

namespace cadre::trainer {

class OnlineSelector {
 public:
  // Loads the reference. `model` is the one that trains. All are borrowed. Collective. Throws Error(kUsage) when the
  // reference was made with another tokenizer, or for sets of pairs.
  OnlineSelector(const data::OnlineSelection& selection, const Dataset& dataset,
                 const data::LoaderConfig& loader, ModelState& model);

  // Sequences to plan for a global batch of this many.
  static int64_t candidates(const data::Selector& selector, int64_t global_batch);
  // Masks tokens or takes sequences away; counts and domain_tokens are then those of what is left. Collective.
  void apply(int64_t global_batch, data::LoadedBatch& batch);

 private:
  // By token of each micro-batch: the model's nats minus the reference's, 0 where there is no loss.
  std::vector<std::vector<double>> excess(const data::LoadedBatch& batch);
  void mask_tokens(const std::vector<std::vector<double>>& excess, data::LoadedBatch& batch);
  void keep_sequences(const std::vector<std::vector<double>>& excess, int64_t global_batch,
                      data::LoadedBatch& batch);

  const data::OnlineSelection selection_;
  const data::Corpus& corpus_;
  const data::LoaderConfig loader_;
  ModelState& model_;
  std::unique_ptr<ModelState> reference_;
};

}  // namespace cadre::trainer
