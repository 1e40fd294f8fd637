// The plan of a run's memory against what the run takes, and what a run is told that does not fit.
#include "trainer/run/memory_plan.h"

#include "tests/trainer/run_fixture.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {
namespace {

// Calls body(config, queue, mesh) on one rank.
template <class Body>
void with_run(const std::vector<std::string>& overrides, const Body& body) {
  comm::run_threads(1, [&](comm::World& world) {
    RunConfig config = testing::tiny_run(overrides);
    set_vocab(config, testing::kVocab);
    device::CpuQueue queue(1);
    comm::Mesh mesh(world, config.mesh);
    body(config, queue, mesh);
  });
}

size_t planned(const std::vector<std::string>& overrides, int64_t sequences) {
  size_t bytes = 0;
  with_run(overrides, [&](const RunConfig& config, device::Queue& queue, comm::Mesh& mesh) {
    bytes = plan_memory(config, queue, mesh, sequences, true).total();
  });
  return bytes;
}

std::string refused(const std::vector<std::string>& overrides, int64_t sequences, size_t free) {
  std::string message;
  with_run(overrides, [&](const RunConfig& config, device::Queue& queue, comm::Mesh& mesh) {
    try {
      require_memory(config, queue, mesh, sequences, true, free);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      message = error.what();
    }
  });
  return message;
}

TEST(MemoryPlan, IsWhatTheRunTakes) {
  const Dataset dataset = testing::tiny_dataset();
  for (const std::vector<std::string>& overrides :
       {std::vector<std::string>{},
        {"optim={name: muon, lr: 0.01}"},
        {"optim={name: adamw, lr: 0.01, moments: bf16}", "train.activation_recompute=full"}}) {
    comm::run_threads(2, [&](comm::World& world) {
      const TrainState state(testing::tiny_run(overrides), dataset, world);
      const MemoryPlan& plan = state.model.plan;
      EXPECT_EQ(plan.parameters, state.model.store.bytes());
      EXPECT_EQ(plan.optimizer, state.optimizer->bytes());
      EXPECT_EQ(plan.activations, state.model.saved.bytes());
      EXPECT_EQ(plan.scratch, state.model.scratch.bytes());
      EXPECT_NE(plan.text().find("optimizer"), std::string::npos);
    });
  }
}

// Of two layers with one head of 8 for keys and values each: 3 pages of 16 tokens hold a sequence of 40.
TEST(MemoryPlan, CountsKeysAndValuesOfWhatIsSampled) {
  const std::vector<std::string> model = {"model={dim: 16, layers: 2, heads: 2, kv_heads: 1, ffn_width: 24}",
                                          "data.seq_len=40"};
  const auto cache = [&](const std::string& rollout) {
    std::vector<std::string> overrides = model;
    if (!rollout.empty()) overrides.push_back("rollout=" + rollout);
    if (!rollout.empty()) overrides.emplace_back("objective=vespo");
    size_t bytes = 0;
    with_run(overrides, [&](const RunConfig& config, device::Queue& queue, comm::Mesh& mesh) {
      const MemoryPlan plan = plan_memory(config, queue, mesh, 4, true);
      bytes = plan.cache;
      EXPECT_EQ(plan.text().find("keys and values") != std::string::npos, bytes > 0);
    });
    return bytes;
  };
  EXPECT_EQ(cache(""), 0u);
  EXPECT_EQ(cache("{sequences: 6}"), size_t(6 * 3 * 16 * 2 * 2 * 8) * sizeof(float));
  EXPECT_EQ(cache("{sequences: 6, cache_tokens: 100}"), size_t(6 * 16 * 2 * 2 * 8) * sizeof(float));
}

TEST(MemoryPlan, ARunThatDoesNotFitIsToldTheNearestThatDoes) {
  constexpr int64_t kSequences = 8;
  const std::vector<std::string> full = {"train.activation_recompute=full"};
  EXPECT_EQ(refused({}, kSequences, planned({}, kSequences)), "");
  // Room for all sequences if activations are made again.
  const std::string first = refused({}, kSequences, planned(full, kSequences));
  EXPECT_NE(first.find("train.activation_recompute: full fits"), std::string::npos) << first;
  EXPECT_EQ(first.find('\n'), std::string::npos) << "one line";
  // Room for 5 of them as they are.
  const size_t five = planned({}, 5);
  const std::string second = refused({}, kSequences, five);
  EXPECT_NE(second.find("train.micro_batch: 5 fits"), std::string::npos) << second;
  EXPECT_GT(planned({}, 6), five);
  // Room for some only with both.
  ASSERT_LT(planned(full, 1), planned({}, 1));
  const std::string third = refused({}, kSequences, planned(full, 1));
  EXPECT_NE(third.find("train.micro_batch: 1 with train.activation_recompute: full fits"), std::string::npos)
      << third;
  const std::string last = refused({}, kSequences, 1000);
  EXPECT_NE(last.find("one sequence does not fit either"), std::string::npos) << last;
}

}  // namespace
}  // namespace cadre::trainer
