#include "trainer/run/online_selection.h"

#include <algorithm>
#include <cmath>

#include "data/planner/apportion.h"
#include "data/selectors/online.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/initial_model.h"

namespace cadre::trainer {
namespace {

std::unique_ptr<ModelState> load_reference(const std::string& path, const Dataset& dataset,
                                           ModelState& model) {
  require(!path.empty(), ExitCode::kUsage,
          "{}: selector.reference is missing; give the run folder or checkpoint of a model trained on good "
          "text",
          model.config.source);
  const std::filesystem::path folder = find_checkpoint(path, model.mesh.data());
  TensorReader reader(folder);
  require(same_tokenizer(reader.index(), folder, dataset.tokenizer_file), ExitCode::kUsage,
          "{}: selector.reference {} was made with another tokenizer than the data; token losses do not "
          "compare",
          model.config.source, folder.string());
  RunConfig config = model.config;  // device, threads, mesh, lengths
  const RunConfig saved = checkpoint_config(reader.index(), folder);
  config.model = saved.model;
  config.moe = saved.moe;
  auto reference = std::make_unique<ModelState>(config, model.mesh.world(), config.train.micro_batch, false);
  restore_model(*reference, reader);
  return reference;
}

// Counts over the global batch after masks changed.
void count_again(comm::Communicator& data, data::LoadedBatch& batch) {
  std::vector<int64_t> counts(batch.domain_tokens.size() + 1, 0);
  for (const Batch& micro : batch.micro) {
    int32_t live_segment = -1;
    for (int64_t t = 0; t < micro.num_tokens(); ++t) {
      if (t % micro.seq_len == 0) live_segment = -1;
      if (micro.loss_mask[size_t(t)] == 0) continue;
      ++counts[size_t(micro.domain[size_t(t)])];
      if (micro.segment[size_t(t)] == live_segment) continue;
      live_segment = micro.segment[size_t(t)];
      ++counts.back();
    }
  }
  data.all_reduce(std::span<int64_t>(counts), comm::ReduceOp::kSum, "selected tokens");
  batch.counts.trained_segments = counts.back();
  counts.pop_back();
  batch.counts.trained_tokens = 0;
  for (const int64_t n : counts) batch.counts.trained_tokens += n;
  batch.domain_tokens = counts;
}

}  // namespace

OnlineSelector::OnlineSelector(const data::OnlineSelection& selection, const Dataset& dataset,
                               const data::LoaderConfig& loader, ModelState& model)
    : selection_(selection), corpus_(*dataset.train), loader_(loader), model_(model) {
  require(corpus_.kind() != data::SetKind::kPreference, ExitCode::kUsage,
          "{}: selector: a set of pairs is not selected from by tokens or sequences; use gumbel with a score "
          "of pairs",
          model.config.source);
  reference_ = load_reference(selection.reference, dataset, model);
}

int64_t OnlineSelector::candidates(const data::Selector& selector, int64_t global_batch) {
  const auto online = selector.online();
  if (!online || online->unit != data::OnlineSelection::Unit::kSequences) return global_batch;
  return int64_t(std::ceil(double(global_batch) / online->keep - 1e-6));
}

void OnlineSelector::apply(int64_t global_batch, data::LoadedBatch& batch) {
  const auto scores = excess(batch);
  if (selection_.unit == data::OnlineSelection::Unit::kTokens) {
    mask_tokens(scores, batch);
  } else {
    keep_sequences(scores, global_batch, batch);
  }
}

std::vector<std::vector<double>> OnlineSelector::excess(const data::LoadedBatch& batch) {
  std::vector<std::vector<double>> all;
  for (const Batch& micro : batch.micro) {
    const auto ours = model_.decoder.forward(micro, false);
    std::vector<double>& out = all.emplace_back(size_t(micro.num_tokens()));
    for (size_t t = 0; t < out.size(); ++t) out[t] = -double(ours[int64_t(t)]);
    const auto theirs = reference_->decoder.forward(micro, false);
    for (size_t t = 0; t < out.size(); ++t) out[t] += double(theirs[int64_t(t)]);
  }
  return all;
}

void OnlineSelector::mask_tokens(const std::vector<std::vector<double>>& excess, data::LoadedBatch& batch) {
  for (size_t i = 0; i < batch.micro.size(); ++i)
    data::keep_tokens(excess[i], selection_.keep, batch.micro[i]);
  count_again(model_.mesh.data(), batch);
}

void OnlineSelector::keep_sequences(const std::vector<std::vector<double>>& excess, int64_t global_batch,
                                    data::LoadedBatch& batch) {
  const auto candidates = int64_t(batch.plan.sequences.size());
  std::vector<double> score(size_t(candidates), 0.0);
  int64_t row = 0;
  for (size_t i = 0; i < batch.micro.size(); ++i) {
    const Batch& micro = batch.micro[i];
    for (int64_t r = 0; r < micro.num_sequences; ++r, ++row) {
      const int64_t index = row * loader_.data_ranks + loader_.data_rank;
      double sum = 0, tokens = 0;
      for (int64_t t = r * micro.seq_len; t < (r + 1) * micro.seq_len; ++t) {
        sum += excess[i][size_t(t)];
        tokens += micro.loss_mask[size_t(t)];
      }
      if (index < candidates) score[size_t(index)] = tokens > 0 ? sum / tokens : 0;
    }
  }
  model_.mesh.data().all_reduce(std::span<double>(score), comm::ReduceOp::kSum, "scores of sequences");
  std::vector<int32_t> domain;
  std::vector<double> share;
  for (const data::PlanSequence& s : batch.plan.sequences) domain.push_back(s.domain);
  for (const int64_t n : batch.plan.domain_sequences) share.push_back(double(n) / double(candidates));
  std::vector<int64_t> carried(share.size(), 0);
  const auto counts = data::apportion(std::min(global_batch, candidates), data::weight_units(share),
                                      batch.plan.domain_sequences, carried);
  data::BatchPlan plan;
  plan.domain_sequences.assign(share.size(), 0);
  plan.domain_tokens.assign(share.size(), 0);
  for (const int64_t i : data::keep_sequences(score, domain, counts.value())) {
    plan.sequences.push_back(batch.plan.sequences[size_t(i)]);
    const data::PlanSequence& sequence = plan.sequences.back();
    ++plan.domain_sequences[size_t(sequence.domain)];
    for (const data::PlanSegment& s : sequence.segments)
      plan.domain_tokens[size_t(sequence.domain)] += s.count;
  }
  std::vector<double> weights = std::move(batch.weights);
  batch = data::build_batch(plan, corpus_, loader_);
  batch.weights = std::move(weights);
}

}  // namespace cadre::trainer
