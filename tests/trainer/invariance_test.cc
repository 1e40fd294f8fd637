// The result of training does not depend on ranks, expert degree or micro-batches; and is the same bits when
// repeated.
#include "moe/balance_loss.h"
#include "moe/router.h"
#include "optim/optimizer.h"
#include "tests/trainer/run_fixture.h"

namespace cadre::trainer {
namespace {

using testing::losses;
using testing::run_steps;

struct Layout {
  int ranks, ep, micro_batch;
};
std::vector<std::string> with(std::vector<std::string> overrides, const Layout& layout) {
  overrides.push_back(fmt::format("mesh.ep={}", layout.ep));
  overrides.push_back(fmt::format("train.micro_batch={}", layout.micro_batch));
  return overrides;
}
std::string name(const Layout& l) {
  return fmt::format("{} ranks, ep {}, micro-batch {}", l.ranks, l.ep, l.micro_batch);
}

// 8 sequences a step: all of them at once, one by one, and shared out; 3 leaves an incomplete last
// micro-batch.
const Layout kLayouts[] = {{1, 1, 1}, {1, 1, 3}, {2, 1, 4}, {2, 2, 1}, {4, 1, 2}, {4, 2, 1}, {4, 4, 2}};
constexpr uint64_t kSteps = 20;

// Whether the table allows this pair, and its result may not depend on the split.
bool is_invariant(const std::vector<std::string>& overrides) {
  bool invariant = false;
  try {
    RunConfig config = testing::tiny_run(overrides);
    set_vocab(config, testing::kVocab);
    comm::run_threads(1, [&](comm::World& world) {
      ModelState model(config, world, 1, false);
      invariant = !model.decoder.split_dependent();
    });
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage) << error.what();  // a pair that the run file may not name
  }
  return invariant;
}

using Variant = std::tuple<std::string, std::string>;  // router, balance loss
class EveryRouterAndBalance : public ::testing::TestWithParam<Variant> {};

TEST_P(EveryRouterAndBalance, LossIsTheSameForEveryLayout) {
  const auto& [router, balance] = GetParam();
  const std::vector<std::string> overrides = {"moe.router={name: " + router + "}",
                                              "moe.balance={name: " + balance + "}"};
  if (!is_invariant(overrides)) GTEST_SKIP() << "says split_dependent, or may not be combined";
  const auto expected = run_steps(1, with(overrides, {1, 1, 8}), kSteps);
  EXPECT_LT(expected.back().loss, 0.95 * expected.front().loss)
      << "the model must learn, or equal curves say little";
  for (const Layout& layout : kLayouts) {
    const auto got = run_steps(layout.ranks, with(overrides, layout), kSteps);
    testing::expect_same_curve(losses(got), losses(expected), name(layout));
    // AdamW hides a wrong scale of all gradients; their norm does not.
    testing::expect_same_curve(testing::norms(got), testing::norms(expected), "norm, " + name(layout), 1e-3);
  }
}

std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const auto& router : moe::router_table<float>()) {
    for (const auto& balance : moe::balance_table<float>()) all.emplace_back(router.name, balance.name);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Tables, EveryRouterAndBalance, ::testing::ValuesIn(variants()),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param);
                         });

// With each of these, as with the tables above, every layout gives the same curve.
class EveryOption : public ::testing::TestWithParam<std::vector<std::string>> {};

TEST_P(EveryOption, LossIsTheSameForEveryLayout) {
  std::vector<std::string> overrides = GetParam();
  overrides.push_back("moe.balance={name: none}");
  const auto expected = losses(run_steps(1, with(overrides, {1, 1, 8}), kSteps));
  for (const Layout& layout : {Layout{1, 1, 2}, Layout{2, 2, 2}, Layout{4, 2, 1}}) {
    testing::expect_same_curve(losses(run_steps(layout.ranks, with(overrides, layout), kSteps)), expected,
                               name(layout));
  }
}
INSTANTIATE_TEST_SUITE_P(
    Options, EveryOption,
    ::testing::Values(std::vector<std::string>{"optim={name: muon, lr: 0.003}"},
                      std::vector<std::string>{"mesh.zero=0"}, std::vector<std::string>{"data.pack=false"},
                      std::vector<std::string>{"data.mask_documents=false"},
                      std::vector<std::string>{"data.shuffle=pieces"},
                      std::vector<std::string>{"moe.num_shared=1", "model.qk_norm=true"},
                      std::vector<std::string>{"moe.dispatch=gather", "moe.num_shared=1"},
                      std::vector<std::string>{"moe.dispatch=gather", "train.global_batch=3"},
                      std::vector<std::string>{"model.tie_head=false", "data.prefetch=0"},
                      std::vector<std::string>{"train.activation_recompute=full"}));

// The global-batch loss depends on micro-batches, but not on ranks: one micro-batch a rank.
TEST(Invariance, GlobalBatchBalanceDoesNotDependOnRanks) {
  const std::vector<std::string> overrides = {"moe.balance={name: global_batch, coef: 0.05}"};
  const auto expected = run_steps(1, with(overrides, {1, 1, 8}), kSteps);
  for (const Layout& layout : {Layout{2, 2, 4}, Layout{4, 2, 2}}) {
    const auto got = run_steps(layout.ranks, with(overrides, layout), kSteps);
    testing::expect_same_curve(losses(got), losses(expected), name(layout));
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(got[i].aux_loss, expected[i].aux_loss, 1e-4 * expected[i].aux_loss);
  }
}

// A batch smaller than the number of ranks leaves a rank without tokens.
TEST(Invariance, RankWithoutTokensTakesPart) {
  const std::vector<std::string> overrides = {"train.global_batch=3", "train.micro_batch=1",
                                              "moe.balance={name: none}"};
  auto four = overrides;
  four.push_back("mesh.ep=4");
  testing::expect_same_curve(losses(run_steps(4, four, kSteps)), losses(run_steps(1, overrides, kSteps)),
                             "3 sequences on 4 ranks");
}

TEST(Repeat, GivesTheSameBits) {
  for (const Layout& layout : {Layout{1, 1, 2}, Layout{4, 2, 1}}) {
    const auto overrides = with({}, layout);
    const auto first = run_steps(layout.ranks, overrides, 10),
               second = run_steps(layout.ranks, overrides, 10);
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(first[i].loss, second[i].loss) << name(layout) << ", step " << i;
      EXPECT_EQ(first[i].grad_norm, second[i].grad_norm) << name(layout) << ", step " << i;
    }
  }
}

// Also where experts sit on other ranks: what came from them is kept.
TEST(Recompute, GivesTheSameBits) {
  for (const Layout& layout : {Layout{1, 1, 3}, Layout{4, 2, 1}}) {
    const auto kept = run_steps(layout.ranks, with({}, layout), 6);
    for (const char* mode : {"selective", "full"}) {
      const auto again =
          run_steps(layout.ranks, with({fmt::format("train.activation_recompute={}", mode)}, layout), 6);
      EXPECT_EQ(losses(again), losses(kept)) << mode << ", " << name(layout);
      EXPECT_EQ(testing::norms(again), testing::norms(kept)) << mode << ", " << name(layout);
    }
  }
}

// Rows that are read from other ranks' memory instead of sent; they are kept, so that recomputation reads nothing again.
TEST(PeerDispatch, AndCopyTrainTheSameBits) {
  const Layout layout{4, 2, 2};
  const auto sent = run_steps(layout.ranks, with({}, layout), 6);
  for (const char* dispatch : {"moe.dispatch=peer", "moe.dispatch=copy"}) {
    for (const char* mode : {"none", "full"}) {
      const auto read = run_steps(
          layout.ranks, with({dispatch, fmt::format("train.activation_recompute={}", mode)}, layout), 6);
      EXPECT_EQ(losses(read), losses(sent)) << dispatch << ", " << mode;
      EXPECT_EQ(testing::norms(read), testing::norms(sent)) << dispatch << ", " << mode;
    }
  }
}

TEST(Step, ReportsCountsAndDomainsOfTheGlobalBatch) {
  const StepReport report = run_steps(2, {"mesh.ep=2"}, 1).front();
  double tokens = 0, nats = 0;
  for (size_t k = 0; k < 3; ++k) {
    tokens += report.domain_tokens[k];
    nats += report.domain_tokens[k] > 0 ? report.domain_tokens[k] * report.domain_loss[k] : 0;
  }
  EXPECT_EQ(tokens, double(report.counts.trained_tokens));
  EXPECT_NEAR(nats / tokens, report.loss, 1e-9 * report.loss);
  ASSERT_EQ(report.expert_tokens.size(), 2u);
  for (const auto& layer : report.expert_tokens) {
    double slots = 0;
    for (double n : layer) slots += n;
    EXPECT_EQ(slots, 2.0 * double(report.counts.real_tokens)) << "top 2 of every token";
  }
}

// A weight that is not a number makes every loss so: updates are skipped on all ranks, and too many end the
// run.
TEST(Skip, NonFiniteLossSkipsTheUpdateAndEndsTheRunInTheEnd) {
  const Dataset dataset = testing::tiny_dataset();
  comm::run_threads(2, [&](comm::World& world) {
    TrainState state(testing::tiny_run({"train.max_skips=3", "mesh.ep=2"}), dataset, world);
    train_step(state, {});
    state.reducer.finish_values();
    const auto values = state.model.store.values(device::Group::kDense);
    const std::vector<float> before(values.begin(), values.end());
    const float saved = values[0];
    if (world.rank() == 1) values[0] = std::nanf("");
    EXPECT_TRUE(train_step(state, {}).skipped);
    EXPECT_EQ(state.counters.skipped_steps, 1);
    EXPECT_EQ(state.optimizer->updates(), 1);
    EXPECT_EQ(state.progress.step, 2u) << "the batch was consumed";
    values[0] = saved;
    EXPECT_EQ(std::vector<float>(values.begin(), values.end()), before);
    EXPECT_FALSE(train_step(state, {}).skipped);
    EXPECT_EQ(state.counters.skips_in_row, 0);
    state.reducer.finish_values();
    values[0] = std::nanf("");
    train_step(state, {});
    train_step(state, {});
    try {
      train_step(state, {});
      ADD_FAILURE() << "the third skip in a row must end the run";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kNumeric);
    }
  });
}

}  // namespace
}  // namespace cadre::trainer
