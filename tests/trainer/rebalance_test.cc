// Experts that move between ranks: the same model with other numbers, and nothing left behind.
#include <map>
#include <mutex>

#include "moe/placement.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/move_experts.h"

namespace cadre::trainer {
namespace {

using testing::losses;
using testing::run_steps;
using Overrides = std::vector<std::string>;
using Tensors = std::map<std::string, std::vector<float>>;

constexpr int kExperts = 8, kLayers = 3;

Overrides with(Overrides overrides, const Overrides& more) {
  overrides.insert(overrides.begin(), {fmt::format("moe.num_experts={}", kExperts), "train.micro_batch=1"});
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}

// Of all ranks together: everything that a checkpoint holds, in whole tensors, and the rows' shapes.
struct Whole {
  Tensors tensors;
  std::map<std::string, std::vector<int64_t>> shapes;
};
void add_slices(TrainState& state, Whole& whole) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  for (const Slice& slice : owned_slices(state)) {
    int64_t numel = 1;
    for (const int64_t n : slice.shape) numel *= n;
    auto& tensor = whole.tensors[slice.tensor];
    tensor.resize(size_t(numel), std::nanf(""));
    whole.shapes[slice.tensor] = slice.shape;
    for (int64_t i = 0; i < slice.count; ++i) {
      tensor[size_t(slice.begin + i)] = slice.dtype == kBfloat16
                                            ? float(static_cast<const device::bf16*>(slice.data)[i])
                                            : static_cast<const float*>(slice.data)[i];
    }
  }
}

// Loads by MoE layer that ask for moves, in each layer others.
std::vector<std::vector<double>> uneven() {
  return {{9, 8, 7, 6, 1, 2, 3, 4}, {1, 1, 1, 30, 1, 2, 40, 50}};
}

// Elements of a tensor as they should be after the moves.
std::vector<float> renumbered(const std::string& name, const std::vector<float>& old,
                              const std::vector<std::vector<int>>& sources) {
  for (int layer = 1; layer < kLayers; ++layer) {
    const auto at = name.find(fmt::format("layers.{}.moe.", layer));
    if (at == std::string::npos || name.find(".shared") != std::string::npos) continue;
    const auto& source = sources[size_t(layer - 1)];
    const size_t unit = old.size() / kExperts;
    std::vector<float> result;
    for (const int expert : source)
      result.insert(result.end(), old.begin() + long(size_t(expert) * unit),
                    old.begin() + long((size_t(expert) + 1) * unit));
    return result;
  }
  return old;
}

struct Case {
  int ranks, ep;
  Overrides overrides;
};
class Moves : public ::testing::TestWithParam<Case> {};

// Values and states exactly, what balances too; and every rank computes the loss that it did.
TEST_P(Moves, RenumberEverythingAndChangeNothing) {
  const auto& [ranks, ep, given] = GetParam();
  const Overrides overrides = with(given, {fmt::format("mesh.ep={}", ep), "moe.rebalance=0"});
  std::vector<std::vector<int>> sources;
  for (const auto& loads : uneven()) sources.push_back(moe::place_by_load(loads, ep));
  static const Dataset dataset = testing::tiny_dataset();
  Whole before, after;
  comm::run_threads(ranks, [&](comm::World& world) {
    TrainState state(testing::tiny_run(overrides), dataset, world);
    while (state.progress.step < 3) train_step(state, {});
    const EvalSet set = choose_documents(*dataset.valid, 100, false);
    const auto nats = [&] { return evaluate(state.model, *dataset.valid, set, 1).front().nats; };
    const double expected = nats();
    const moe::StateDict balance = state.model.decoder.save_state();
    state.reducer.finish_values();
    add_slices(state, before);
    state.model.mesh.data().barrier("test");
    EXPECT_EQ(move_experts(state, uneven()).size(), 2u);
    add_slices(state, after);
    EXPECT_NEAR(nats(), expected, 1e-6 * expected);
    for (const auto& [name, values] : state.model.decoder.save_state()) {
      const auto& source = sources[name.starts_with("layers.1.") ? 0 : 1];
      for (int e = 0; e < kExperts; ++e)
        EXPECT_EQ(values[size_t(e)], balance.at(name)[size_t(source[size_t(e)])]) << name;
    }
  });
  ASSERT_GT(before.tensors.size(), 40u);
  for (const auto& [name, old] : before.tensors) {
    const bool expert = name.find(".moe.") != std::string::npos;
    EXPECT_TRUE(!expert || before.shapes.at(name)[0] == kExperts) << name;
    EXPECT_EQ(after.tensors.at(name) == renumbered(name, old, sources), true) << name;
  }
}

// The run that was left alone and the one whose experts moved, several times, learn the same.
TEST_P(Moves, LeaveTheCurveAsItIs) {
  const auto& [ranks, ep, given] = GetParam();
  const Overrides overrides = with(given, {fmt::format("mesh.ep={}", ep)});
  const auto kept = run_steps(ranks, with(overrides, {"moe.rebalance=0"}), 12);
  const auto moved = run_steps(ranks, with(overrides, {"moe.rebalance=3"}), 12);
  size_t moves = 0;
  for (const StepReport& report : moved) moves += report.moved_experts.size();
  EXPECT_GT(moves, 2u) << "or this shows nothing";
  testing::expect_same_curve(losses(moved), losses(kept), "loss", 2e-5);
  testing::expect_same_curve(testing::norms(moved), testing::norms(kept), "norm", 1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Runs, Moves,
    ::testing::Values(
        Case{2, 2, {"mesh.zero=0"}}, Case{2, 2, {}}, Case{4, 2, {"mesh.zero=0"}}, Case{4, 2, {}},
        Case{4, 2, {"mesh.zero=2", "moe.balance={name: previous_batch}"}},
        Case{4, 2, {"mesh.zero=3", "train.global_batch=9"}},
        Case{4, 4, {"moe.router={name: sigmoid_bias}", "moe.dispatch=gather"}},
        Case{4, 2, {"optim={name: muon, lr: 0.003}"}}, Case{2, 2, {"moe.router={name: autonomy, rank: 4}"}},
        Case{4, 2, {"influence.period=2", "influence.tokens_per_domain=60", "eval.tokens_per_domain=60"}}));

// Also bf16 moments, whose later roundings go by places, so that curves differ a little.
TEST(Rebalance, NarrowMomentsMoveToo) {
  const Overrides overrides = with({"mesh.ep=2", "optim={name: adamw, lr: 0.003, moments: bf16}"}, {});
  const auto kept = run_steps(2, with(overrides, {"moe.rebalance=0"}), 8);
  const auto moved = run_steps(2, with(overrides, {"moe.rebalance=3"}), 8);
  testing::expect_same_curve(losses(moved), losses(kept), "loss", 1e-3);
}

// Loads since the last look are in the checkpoint, whatever step it is of.
TEST(Rebalance, GoesOnFromACheckpointWithTheSameLoadsAndBits) {
  for (const uint64_t stop : {4, 5, 6}) {
    testing::TempFolder whole, cut;
    const Overrides overrides = with({"mesh.ep=2", "moe.rebalance=4"}, {});
    run_steps(2, overrides, 7, whole.path());
    run_steps(2, overrides, stop, cut.path());
    run_steps(2, overrides, 7, cut.path());
    const auto index = [](const testing::TempFolder& folder) {
      return read_index(folder.path() / checkpoint_name(7));
    };
    const CheckpointIndex expected = index(whole), got = index(cut);
    ASSERT_EQ(expected.state.at("expert_loads").size(), 2u);
    EXPECT_EQ(got.state.at("expert_loads"), expected.state.at("expert_loads")) << stop;
    for (const auto& [name, info] : expected.files) EXPECT_EQ(got.files.at(name).sha256, info.sha256) << name;
  }
}

TEST(Rebalance, LooksEarlyAndThenNowAndThen) {
  std::vector<uint64_t> due;
  for (uint64_t step = 0; step <= 500; ++step)
    if (rebalance_due(step, 100)) due.push_back(step);
  EXPECT_EQ(due, (std::vector<uint64_t>{5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 400, 500}));
  EXPECT_FALSE(rebalance_due(5, 0));
  EXPECT_TRUE(rebalance_due(3, 3));
  EXPECT_FALSE(rebalance_due(5, 3));
}

TEST(Rebalance, IsOffWhereExpertsCannotBeRenumbered) {
  const Overrides grouped = {"mesh.ep=2", "moe.router={name: sigmoid_bias, groups: 2}"};
  EXPECT_EQ(rebalance_period(testing::tiny_run({})), 0);
  EXPECT_EQ(rebalance_period(testing::tiny_run({"mesh.ep=2"})), 100);
  EXPECT_EQ(rebalance_period(testing::tiny_run({"mesh.ep=2", "moe.rebalance=auto"})), 100);
  EXPECT_EQ(rebalance_period(testing::tiny_run({"mesh.ep=2", "moe.rebalance=0"})), 0);
  EXPECT_EQ(rebalance_period(testing::tiny_run({"mesh.ep=2", "moe.rebalance=7"})), 7);
  EXPECT_EQ(rebalance_period(testing::tiny_run(grouped)), 0);
  try {
    rebalance_period(testing::tiny_run(with(grouped, {"moe.rebalance=7"})));
    ADD_FAILURE() << "groups of experts are numbers";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("moe.rebalance is 7"), std::string::npos) << error.what();
  }
  EXPECT_THROW(testing::tiny_run({"moe.rebalance=-2"}), Error);
  EXPECT_THROW(testing::tiny_run({"moe.rebalance=often"}), Error);
}

}  // namespace
}  // namespace cadre::trainer
