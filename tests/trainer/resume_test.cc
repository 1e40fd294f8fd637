// Stopping and going on: bitwise on the same layout, and on the same curve on another one.
#include <fstream>

#include "parallel/base/files.h"
#include "tests/trainer/run_loop.h"
#include "trainer/run/stop.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using testing::lines;
using testing::losses;
using testing::run_loop;
using testing::run_steps;
using testing::TempFolder;

std::vector<std::pair<uint64_t, double>> curve(const fs::path& out) {
  std::vector<std::pair<uint64_t, double>> points;
  for (const auto& line : lines(out, "kind", "train")) points.emplace_back(line["step"], line["loss"]);
  return points;
}
std::vector<uint64_t> steps_with_expert_load(const fs::path& out) {
  std::vector<uint64_t> steps;
  for (const auto& line : lines(out, "kind", "train"))
    if (line.contains("expert_load")) steps.push_back(line["step"]);
  return steps;
}
// Hashes of the ranks' files: equal only when every value and every optimizer state has the same bits.
std::map<std::string, std::string> hashes(const fs::path& out, uint64_t step) {
  std::map<std::string, std::string> all;
  for (const auto& [name, info] : read_index(out / "checkpoints" / checkpoint_name(step)).files)
    all[name] = info.sha256;
  return all;
}
struct ResumeCase {
  int ranks;
  std::vector<std::string> overrides;
};
class Resume : public ::testing::TestWithParam<ResumeCase> {};

// As after a kill: the checkpoints past step 5 are lost, and the run goes on from there.
TEST_P(Resume, FromACheckpointIsBitwise) {
  TempFolder folder;
  const fs::path whole = folder.path() / "whole", cut = folder.path() / "cut";
  auto overrides = GetParam().overrides;
  overrides.insert(overrides.end(), {"train.steps=12", "checkpoint.every=5", "eval.every=4"});
  EXPECT_EQ(run_loop(GetParam().ranks, whole, overrides), ExitCode::kOk);
  fs::copy(whole, cut, fs::copy_options::recursive);
  fs::remove_all(cut / "checkpoints" / checkpoint_name(10));
  fs::remove_all(cut / "checkpoints" / checkpoint_name(12));
  std::ofstream(cut / "metrics.jsonl", std::ios::app) << "{\"kind\": \"train\", \"st";  // cut by the crash
  EXPECT_EQ(run_loop(GetParam().ranks, cut, overrides), ExitCode::kOk);
  EXPECT_EQ(hashes(cut, 10), hashes(whole, 10));
  EXPECT_EQ(hashes(cut, 12), hashes(whole, 12));
  EXPECT_EQ(curve(cut), curve(whole)) << "metrics.jsonl must read as one run";
  EXPECT_EQ(lines(cut, "kind", "eval"), lines(whole, "kind", "eval"));
  EXPECT_EQ(steps_with_expert_load(cut), steps_with_expert_load(whole));
}
INSTANTIATE_TEST_SUITE_P(
    Layouts, Resume,
    ::testing::Values(ResumeCase{1, {"checkpoint.async=false"}},
                      ResumeCase{1, {"checkpoint.async=true", "data.prefetch=0"}},
                      ResumeCase{4, {"mesh.ep=2", "train.micro_batch=1"}},
                      ResumeCase{2, {"mesh.ep=2", "mesh.zero=0"}},
                      ResumeCase{4, {"mesh.ep=2", "mesh.zero=2", "train.micro_batch=1"}},
                      ResumeCase{4, {"mesh.ep=2", "mesh.zero=3", "checkpoint.async=true"}},
                      ResumeCase{4, {"mesh.ep=2", "moe.rebalance=4", "train.micro_batch=1"}},
                      ResumeCase{4, {"mesh.ep=2", "moe.shares=width", "mesh.zero=2", "train.micro_batch=1"}},
                      ResumeCase{2, {"optim={name: muon, lr: 0.003}"}},
                      ResumeCase{2, {"data.shuffle=pieces", "checkpoint.async=true"}},
                      ResumeCase{2, {"optim={name: adamw, lr: 0.003, moments: bf16}"}},
                      ResumeCase{2, {"moe.router={name: sigmoid_bias}", "moe.balance={name: none}"}}));

// Moments are rounded by their place in their tensor, so that layouts do not matter; and either kind reads the other.
TEST(Resume, NarrowMomentsGoToOtherLayoutsAndToWideOnes) {
  const std::vector<std::string> narrow = {"optim={name: adamw, lr: 0.003, moments: bf16}"};
  const auto expected = losses(run_steps(1, narrow, 12)), wide = losses(run_steps(1, {}, 12));
  EXPECT_NE(expected, wide);
  testing::expect_same_curve(expected, wide, "bf16 moments", 2e-3);
  TempFolder folder;
  run_steps(1, narrow, 6, folder.path());
  const auto moved =
      losses(run_steps(2, {"optim={name: adamw, lr: 0.003, moments: bf16}", "mesh.ep=2"}, 9, folder.path()));
  const auto widened = losses(run_steps(1, {"optim={name: adamw, lr: 0.003}"}, 12, folder.path()));
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(moved[size_t(i)], expected[size_t(6 + i)], 1e-4 * expected[size_t(6 + i)]);
    EXPECT_NEAR(widened[size_t(i)], expected[size_t(9 + i)], 2e-3 * expected[size_t(9 + i)]);
  }
}

TEST(Stop, OnRequestSavesAndGoesOnBitwise) {
  TempFolder folder;
  const fs::path whole = folder.path() / "whole", cut = folder.path() / "cut";
  EXPECT_EQ(run_loop(2, whole, {"train.steps=6"}), ExitCode::kOk);
  request_stop(true);
  EXPECT_EQ(run_loop(2, cut, {"train.steps=6"}), ExitCode::kStopped);
  EXPECT_EQ(list_checkpoints(cut / "checkpoints"), (std::vector<uint64_t>{1}));
  EXPECT_EQ(run_loop(2, cut, {"train.steps=6"}), ExitCode::kStopped);
  request_stop(false);
  EXPECT_EQ(run_loop(2, cut, {"train.steps=6"}), ExitCode::kOk);
  EXPECT_EQ(hashes(cut, 6), hashes(whole, 6));
  EXPECT_EQ(curve(cut), curve(whole));
}

TEST(Stop, AnEvaluationThatWasDueIsMadeWhenTheRunGoesOn) {
  TempFolder folder;
  const fs::path whole = folder.path() / "whole", cut = folder.path() / "cut";
  const std::vector<std::string> overrides = {"train.steps=4", "eval.every=2"};
  EXPECT_EQ(run_loop(1, whole, overrides), ExitCode::kOk);
  request_stop(true);
  for (int step = 1; step <= 3; ++step) EXPECT_EQ(run_loop(1, cut, overrides), ExitCode::kStopped);
  request_stop(false);
  EXPECT_EQ(run_loop(1, cut, overrides), ExitCode::kOk);
  EXPECT_EQ(lines(cut, "kind", "eval"), lines(whole, "kind", "eval"));
}

TEST(Resharding, AnyLayoutContinuesTheSameCurve) {
  const std::vector<std::string> base = {"moe.balance={name: none}"};
  const auto expected = losses(run_steps(1, base, 20));
  struct Leg {
    int ranks, ep, zero;
    const char* shares = "experts";
  };
  for (const std::vector<Leg>& legs :
       {std::vector<Leg>{{1, 1, 1}, {2, 2, 1}, {4, 4, 1}, {1, 1, 1}},
        std::vector<Leg>{{4, 2, 1}, {2, 1, 0}, {4, 1, 1}, {2, 2, 0}},
        std::vector<Leg>{{2, 2, 1, "width"}, {4, 4, 1, "width"}, {4, 2, 3}, {4, 2, 2, "width"}}}) {
    TempFolder folder;
    std::vector<double> got;
    for (size_t i = 0; i < legs.size(); ++i) {
      auto overrides = base;
      overrides.push_back(fmt::format("mesh.ep={}", legs[i].ep));
      overrides.push_back(fmt::format("mesh.zero={}", legs[i].zero));
      overrides.push_back(fmt::format("moe.shares={}", legs[i].shares));
      const auto part = losses(run_steps(legs[i].ranks, overrides, 5 * (i + 1), folder.path()));
      got.insert(got.end(), part.begin(), part.end());
    }
    testing::expect_same_curve(got, expected, fmt::format("starting on {} ranks", legs[0].ranks));
  }
}

// The same values, whatever layout saved them.
class Reshard : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Shares, Reshard, ::testing::Values("experts", "width"));
TEST_P(Reshard, LoadsEveryElementOfEveryTensorExactly) {
  TempFolder folder;
  run_steps(4, {"mesh.ep=4", fmt::format("moe.shares={}", GetParam())}, 3, folder.path() / "a");
  fs::copy(folder.path() / "a", folder.path() / "b", fs::copy_options::recursive);
  run_steps(1, {}, 3, folder.path() / "b");  // loads and saves again, without a step
  TensorReader a(folder.path() / "a" / checkpoint_name(3)), b(folder.path() / "b" / checkpoint_name(3));
  ASSERT_EQ(a.index().tensors.size(), b.index().tensors.size());
  EXPECT_NE(a.index().files.size(), b.index().files.size());
  for (const auto& [name, info] : a.index().tensors) {
    std::vector<float> x(size_t(info.numel())), y(x.size());
    a.read(name, info.shape, 0, x);
    b.read(name, info.shape, 0, y);
    EXPECT_EQ(x, y) << name;
  }
}

TEST(Refuse, AnotherModelOrOptimizerInTheSameFolder) {
  TempFolder folder;
  run_loop(1, folder.path(), {"train.steps=1"});
  const std::vector<std::pair<std::string, std::string>> changes = {{"model.dim=32", "model.dim"},
                                                                    {"moe.num_experts=8", "moe.num_experts"},
                                                                    {"optim.name=muon", "optim.name"}};
  for (const auto& [change, named] : changes) {
    try {
      run_loop(1, folder.path(), {"train.steps=2", change});
      ADD_FAILURE() << change << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
    }
  }
}

TEST(Resume, ACheckpointWhoseRunFileLacksNewerKeysFits) {
  TempFolder folder;
  run_loop(1, folder.path(), {"train.steps=1"});
  const fs::path saved = folder.path() / "checkpoints" / checkpoint_name(1);
  CheckpointIndex index = read_index(saved);
  YAML::Node run = YAML::Load(index.config);
  run["model"]["qk_norm"] = "false";  // the word of older builds
  run["model"]["rope"].remove("scaling");
  index.config = YAML::Dump(run);
  const std::string text = to_json(index);
  std::ofstream(saved / kIndexFile) << text;
  std::ofstream(saved / kIndexHashFile) << base::sha256_text(text);
  EXPECT_EQ(run_loop(1, folder.path(), {"train.steps=2"}), ExitCode::kOk);
  EXPECT_EQ(curve(folder.path()).size(), 2u);
}

// As the run file of an imported model is written otherwise than one by hand.
TEST(Resume, OrderAndStyleOfMapsAreNoOtherModel) {
  TempFolder folder;
  run_loop(1, folder.path(), {"train.steps=1", "moe.router={name: softmax_topk, normalize: true}"});
  const std::string later = "moe.router={normalize: true, name: softmax_topk}";
  EXPECT_EQ(run_loop(1, folder.path(), {"train.steps=2", later}), ExitCode::kOk);
  EXPECT_THROW(
      run_loop(1, folder.path(), {"train.steps=3", "moe.router={normalize: false, name: softmax_topk}"}),
      Error);
}

TEST(MaxMinutes, EndsInTimeWithACompleteSchedule) {
  TempFolder folder;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(
      run_loop(1, folder.path(), {"train.steps=1000000", "mixer={name: natural}", "train.max_minutes=0.03"}),
      ExitCode::kOk);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  const auto steps = lines(folder.path(), "kind", "train");
  ASSERT_FALSE(steps.empty());
  EXPECT_LT(double(steps.back()["lr"]), 0.5 * 3e-3) << "the decay must have begun before time was over";
  EXPECT_FALSE(list_checkpoints(folder.path() / "checkpoints").empty());
}

}  // namespace
}  // namespace cadre::trainer
