// A tiny corpus in memory and a tiny model, for tests of whole runs on threads.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "parallel/base/rng.h"
#include "tests/temp_folder.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_writer.h"
#include "trainer/run/loop.h"
#include "trainer/run/step.h"

namespace cadre::trainer::testing {

inline constexpr int kVocab = 40;

// Three domains of documents in which a token mostly follows from the one before, by a rule of the domain.
inline std::unique_ptr<data::Corpus> tiny_corpus(uint64_t seed, int documents) {
  std::vector<data::MemoryDocument> all;
  for (int d = 0; d < documents; ++d) {
    data::MemoryDocument document;
    document.domain = d % 3;
    const base::Philox random(base::mix(seed, uint64_t(d)));
    const int length = 8 + int(random.bits(0) % 50);
    int token = 0;  // bos
    document.tokens.push_back(token);
    for (int i = 1; i < length - 1; ++i) {
      const bool noise = random.uniform(uint64_t(i)) < 0.2;
      token = noise ? 2 + int(random.bits(uint64_t(i), 1) % (kVocab - 2))
                    : 2 + (token * (3 + document.domain) + 1) % (kVocab - 2);
      document.tokens.push_back(token);
    }
    document.tokens.push_back(1);  // eos
    document.bytes = 3 * length;
    all.push_back(std::move(document));
  }
  return data::make_memory_corpus({"alpha", "beta", "gamma"}, std::move(all));
}

inline Dataset tiny_dataset() {
  Dataset set;
  set.train = tiny_corpus(1, 150);
  set.valid = tiny_corpus(2, 30);
  set.vocab = kVocab;
  return set;
}

using test::TempFolder;

inline constexpr const char* kTinyRun = R"(
seed: 7
device: cpu
threads: 1
data: {seq_len: 16, prefetch: 2}
mixer: {name: uniform}
model: {dim: 16, layers: 3, heads: 2, kv_heads: 1, ffn_width: 24, first_dense_layers: 1}
moe: {num_experts: 4, top_k: 2, width: 12, router: {name: softmax_topk, normalize: true}, balance: {name: micro_batch, coef: 0.01}}
optim: {name: adamw, lr: 3.0e-3}
schedule: {name: wsd, warmup: 4, decay: 0.3}
train: {steps: 20, global_batch: 8, micro_batch: 2}
eval: {every: 0, tokens_per_domain: 100}
checkpoint: {every: 0, keep: 100}
log: {every: 1}
)";

// A parsed run file belongs to one thread: every rank reads its own.
inline RunConfig tiny_run(const std::vector<std::string>& overrides) {
  return read_run(base::parse_run_text(kTinyRun, "tiny.yaml", overrides));
}

// Steps up to `until` on a number of ranks, from the newest checkpoint in `folder` and with one at the end, unless it is
// empty; the reports of those that were taken. make: each rank asks for a configuration of its own.
inline std::vector<StepReport> train_on(const Dataset& set, const std::function<RunConfig()>& make, int ranks,
                                        uint64_t until, const std::filesystem::path& folder = {}) {
  std::vector<StepReport> reports;
  comm::run_threads(ranks, [&](comm::World& world) {
    TrainState state(make(), set, world);
    std::optional<CheckpointWriter> writer;
    if (!folder.empty()) {
      if (const auto newest = newest_checkpoint(folder, state.model.mesh.data())) {
        TensorReader reader(*newest);
        restore(state, reader);
      }
      writer.emplace(folder, state);
    }
    while (state.progress.step < until) {
      const StepReport report = train_step(state, {});
      if (world.rank() == 0) reports.push_back(report);
    }
    if (!writer) return;
    writer->start();
    EXPECT_EQ(writer->finish().error, "");
  });
  return reports;
}

inline std::vector<StepReport> run_steps(int ranks, const std::vector<std::string>& overrides, uint64_t until,
                                         const std::filesystem::path& folder = {}) {
  static const Dataset dataset = tiny_dataset();
  return train_on(
      dataset, [&] { return tiny_run(overrides); }, ranks, until, folder);
}

inline std::vector<double> losses(const std::vector<StepReport>& reports) {
  std::vector<double> all;
  for (const StepReport& r : reports) all.push_back(r.loss);
  return all;
}

inline std::vector<double> norms(const std::vector<StepReport>& reports) {
  std::vector<double> all;
  for (const StepReport& r : reports) all.push_back(r.grad_norm);
  return all;
}

// Relative difference of at most `tolerance` at every step.
inline void expect_same_curve(const std::vector<double>& got, const std::vector<double>& expected,
                              const std::string& what, double tolerance = 1e-4) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance * std::abs(expected[i]))
        << what << ", first difference at step " << i;
  }
}

}  // namespace cadre::trainer::testing
