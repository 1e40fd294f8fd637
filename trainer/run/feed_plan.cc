#include "trainer/run/feed_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/pair_view.h"
#include "trainer/run/online_selection.h"

namespace cadre::trainer {
namespace {

int64_t drawn_tokens(const RunConfig& config, const data::Corpus& corpus) {
  if (config.rollout) return planned_tokens(config, corpus);
  return config.train.steps * planned_batch(config) * config.data.seq_len;
}

}  // namespace

int64_t planned_tokens(const RunConfig& config, const data::Corpus& corpus) {
  const TrainConfig& train = config.train;
  if (!config.rollout) return train.steps * train.global_batch * config.data.seq_len;
  double positions = 0;
  for (int64_t d = 0; d < corpus.num_documents(); ++d) positions += double(corpus.document(d).length - 1);
  const double prompts = double(train.steps) * double(train.global_batch) / double(config.rollout->group);
  return int64_t(prompts * positions / double(std::max<int64_t>(1, corpus.num_documents())));
}

int64_t planned_batch(const RunConfig& config) {
  const auto selector = data::make_selector(kind(config, config.selector, "selector"));
  return OnlineSelector::candidates(*selector, config.train.global_batch);
}

int64_t updates_per_plan(const RunConfig& config) {
  return config.rollout ? config.rollout->mini_batches : 1;
}

data::MixerContext feed_context(const RunConfig& config, const data::Corpus& corpus) {
  data::MixerContext context = data::mixer_context(corpus, drawn_tokens(config, corpus));
  context.delay = config.data.prefetch;
  return context;
}

data::PlannerConfig planner_config(const RunConfig& config, const data::Mixer& mixer,
                                   const data::Corpus& corpus) {
  const int64_t samples = planned_batch(config);
  const auto& rollout = config.rollout;
  const bool pieces = config.data.shuffle == "pieces";
  require(!pieces || corpus.kind() == data::SetKind::kText, ExitCode::kUsage,
          "{}: data.shuffle: pieces cuts documents, and the data is a set of kind {}, whose examples stay "
          "whole; leave data.shuffle out",
          config.source, data::name_of(corpus.kind()));
  return {.seed = config.seed,
          .global_batch = rollout ? samples / rollout->group * rollout->mini_batches : samples,
          .seq_len = config.data.seq_len,
          .pack = config.data.pack && !rollout,
          .whole = corpus.kind() == data::SetKind::kInstruction,
          .pieces = pieces,
          .max_epochs = mixer.max_epochs(),
          .total_tokens = drawn_tokens(config, corpus)};
}

std::string shuffle_advice(const RunConfig& config, const data::Corpus& corpus) {
  constexpr double kManySequences = 4;
  if (corpus.kind() != data::SetKind::kText || config.data.shuffle == "pieces" || corpus.num_documents() == 0)
    return "";
  double positions = 0;
  for (const int64_t tokens : data::mixer_context(corpus, 0).domain_tokens) positions += double(tokens);
  const double mean = positions / double(corpus.num_documents());
  const double sequences = mean / double(config.data.seq_len);
  if (sequences <= kManySequences) return "";
  return fmt::format(
      "documents have {:.0f} tokens in the mean, {:.1f} sequences of data.seq_len, which follow each other "
      "in training, so that a batch is text of few documents (`cadre plan` counts them); data.shuffle: "
      "pieces draws each sequence from everywhere",
      mean, sequences);
}

std::unique_ptr<data::Curriculum> feed_curriculum(const RunConfig& config, const data::Corpus& corpus) {
  const bool pairs = corpus.kind() == data::SetKind::kPreference;
  const auto view = pairs ? data::make_pair_view(corpus) : nullptr;
  return data::make_curriculum(kind(config, config.curriculum, "curriculum"), view ? view.get() : &corpus);
}

}  // namespace cadre::trainer
