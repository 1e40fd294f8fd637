// Reinforcement learning in the small: arithmetic, rewarded by a pattern that a random model often meets.
#pragma once

#include "tests/trainer/run_fixture.h"
#include "trainer/run/rollout_setup.h"

namespace cadre::trainer::testing::rl {

// Random bytes of a random model: a quarter to a half of the responses have what the pattern looks for.
inline constexpr const char* kRun = R"(
seed: 5
device: cpu
threads: 1
data: {seq_len: 48, pack: false, prefetch: 1}
tasks: {name: arithmetic, levels: [1, 2], problems: 60, held_out: 6}
reward: {name: regex, pattern: "[0-9a-h]"}
rollout: {group: 4, mini_batches: 2, max_new_tokens: 8, sequences: 10, page_size: 4}
objective: {name: vespo}
mixer: {name: uniform}
model: {dim: 16, layers: 2, heads: 2, kv_heads: 1, ffn_width: 24, first_dense_layers: 1}
moe: {num_experts: 4, top_k: 2, width: 12, balance: none, z_loss: 0}
optim: {name: adamw, lr: 3.0e-3}
schedule: {name: constant}
train: {steps: 20, global_batch: 16, micro_batch: 4}
checkpoint: {keep: 100}
)";

inline RunConfig rl_run(const std::vector<std::string>& overrides) {
  return read_run(base::parse_run_text(kRun, "rl.yaml", overrides));
}

inline Dataset problems(const RunConfig& config) {
  Dataset set;
  set.tokenizer = data::make_byte_tokenizer();
  const data::SetKind kind = config.rollout ? data::SetKind::kPrompts : data::SetKind::kInstruction;
  set.train = data::make_task_corpus(*config.tasks, data::TaskSplit::kTrain, *set.tokenizer, kind);
  set.valid = data::make_task_corpus(*config.tasks, data::TaskSplit::kHeldOut, *set.tokenizer, kind);
  set.vocab = set.tokenizer->vocab_size();
  return set;
}

inline std::vector<StepReport> run(int ranks, const std::vector<std::string>& overrides, uint64_t until,
                                   const std::filesystem::path& folder = {}) {
  const Dataset set = problems(rl_run(overrides));
  return train_on(
      set, [&] { return rl_run(overrides); }, ranks, until, folder);
}

inline double metric(const StepReport& report, const std::string& name) {
  for (const auto& [key, value] : report.objective) {
    if (key == name) return value;
  }
  return report.source.at(name).get<double>();
}
inline std::vector<double> rewards(const std::vector<StepReport>& reports) {
  std::vector<double> all;
  for (const StepReport& r : reports) all.push_back(metric(r, "reward_mean"));
  return all;
}

}  // namespace cadre::trainer::testing::rl
