// Selection inside the step: what is kept, against the plain rule on the whole batch, and the same on every layout.
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "data/selectors/online.h"
#include "tests/trainer/run_fixture.h"

namespace cadre::trainer {
namespace {

using namespace testing;

// A reference: a run of some steps, saved.
std::string reference() {
  static TempFolder folder;
  static const bool made = [] {
    run_steps(1, {"seed=3", "train.steps=60"}, 60, folder.path() / "checkpoints");
    return true;
  }();
  return made ? folder.path().string() : "";
}

std::vector<std::string> with_selector(const std::string& selector, std::vector<std::string> more = {}) {
  more.push_back("selector={" + selector + ", reference: " + reference() + "}");
  more.push_back("moe.balance=none");
  return more;
}

TEST(Rho1, TrainsOnItsShareOfEverySequenceOnAnyLayout) {
  const auto overrides = with_selector("name: rho1, keep: 0.6");
  const auto one = run_steps(1, overrides, 6), plain = run_steps(1, {"moe.balance=none"}, 6);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].counts.trained_tokens, 8 * data::kept_tokens(16, 0.6)) << "packed sequences are full";
    EXPECT_EQ(one[i].counts.real_tokens, plain[i].counts.real_tokens);
    EXPECT_EQ(std::accumulate(one[i].domain_tokens.begin(), one[i].domain_tokens.end(), 0.0),
              double(one[i].counts.trained_tokens));
  }
  EXPECT_GT(one[0].loss, plain[0].loss) << "what the reference fits better is what the model does not fit";
  auto two = overrides;
  two.push_back("mesh.ep=2");
  expect_same_curve(losses(run_steps(2, two, 6)), losses(one), "two ranks");
  auto whole = overrides;
  whole.push_back("train.micro_batch=8");
  expect_same_curve(losses(run_steps(1, whole, 6)), losses(one), "one micro-batch");
  expect_same_curve(losses(run_steps(1, with_selector("name: rho1, keep: 1"), 6)), losses(plain),
                    "all tokens", 0);
}

TEST(RhoLoss, TrainsOnTheBestOfItsCandidatesOnAnyLayout) {
  const auto overrides = with_selector("name: rho_loss, keep: 0.25");
  const auto one = run_steps(1, overrides, 6);
  for (const StepReport& r : one) {
    EXPECT_EQ(r.counts.sequences, 8);
    EXPECT_EQ(r.counts.trained_tokens, 8 * 16);
    EXPECT_GT(*std::min_element(r.domain_tokens.begin(), r.domain_tokens.end()), 0) << "every domain stays";
  }
  expect_same_curve(losses(run_steps(2, overrides, 6)), losses(one), "two ranks");
  expect_same_curve(losses(run_steps(4, with_selector("name: rho_loss, keep: 0.25", {"mesh.ep=2"}), 6)),
                    losses(one), "four ranks with experts apart");
}

// The batch that is trained on is the one that the rule chooses from the losses themselves.
TEST(RhoLoss, KeepsWhatTheRuleSaysByBruteForce) {
  static const Dataset dataset = tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    const auto overrides = with_selector("name: rho_loss, keep: 0.25");
    TrainState state(tiny_run(overrides), dataset, world);
    TrainState model(tiny_run({"moe.balance=none"}), dataset, world),
        frozen(tiny_run({"moe.balance=none"}), dataset, world);
    TensorReader reader(find_checkpoint(reference()));
    restore_model(frozen.model, reader);
    data::LoadedBatch batch = state.feed.next({});
    ASSERT_EQ(batch.plan.sequences.size(), 32u);
    std::vector<double> score;
    std::vector<int32_t> domain;
    for (const Batch& micro : batch.micro) {
      std::vector<double> excess(size_t(micro.num_tokens()), 0.0);
      const auto ours = model.model.decoder.forward(micro, false);
      for (size_t t = 0; t < excess.size(); ++t) excess[t] -= double(ours[int64_t(t)]);
      const auto theirs = frozen.model.decoder.forward(micro, false);
      for (size_t t = 0; t < excess.size(); ++t) excess[t] += double(theirs[int64_t(t)]);
      for (int64_t row = 0; row < micro.num_sequences; ++row) {
        score.push_back(std::accumulate(excess.begin() + row * 16, excess.begin() + (row + 1) * 16, 0.0) /
                        16);
        domain.push_back(micro.domain[size_t(row * 16)]);
      }
    }
    std::map<int32_t, std::vector<double>> dropped, kept;
    const data::BatchPlan before = batch.plan;
    state.online->apply(8, batch);
    size_t next = 0;
    for (size_t i = 0; i < before.sequences.size(); ++i) {
      const auto& s = before.sequences[i].segments.front();
      const bool here = next < batch.plan.sequences.size() &&
                        batch.plan.sequences[next].segments.front().document == s.document &&
                        batch.plan.sequences[next].segments.front().begin == s.begin;
      (here ? kept : dropped)[domain[i]].push_back(score[i]);
      next += here;
    }
    EXPECT_EQ(next, 8u);
    for (const auto& [k, values] : kept) {
      EXPECT_GE(*std::min_element(values.begin(), values.end()),
                *std::max_element(dropped[k].begin(), dropped[k].end()));
    }
  });
}

TEST(Batches, ThatNeedMoreTextThanADomainHasAreRefused) {
  try {
    run_steps(1, {"train.global_batch=400"}, 1);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kData);
    EXPECT_NE(std::string(e.what()).find("one batch needs 2133 of it (0.333 of 6400)"), std::string::npos)
        << e.what();
  }
}

// What can be refused before training is refused before the run's folder holds anything.
TEST(BadInput, LeavesNothingBehind) {
  const TempFolder folder;
  std::ofstream(folder / "weights.yaml") << "{alpha: 1, beta: 1, gamma: 1, delta: 1}";
  const auto message = [&](const std::vector<std::string>& overrides, Dataset dataset) {
    std::string what;
    comm::run_threads(1, [&](comm::World& world) {
      RunConfig config = tiny_run(overrides);
      config.out = (folder / "out").string();
      try {
        train(config, dataset, world, {.measure_peak = false});
      } catch (const Error& e) {
        what = e.what();
      }
    });
    EXPECT_FALSE(std::filesystem::exists(folder / "out/metrics.jsonl")) << what;
    EXPECT_FALSE(std::filesystem::exists(folder / "out/config.resolved.yaml")) << what;
    return what;
  };
  EXPECT_NE(message({"train.global_batch=400"}, tiny_dataset()).find("one batch needs"), std::string::npos);
  Dataset empty = tiny_dataset();
  empty.valid = data::make_memory_corpus({"alpha", "beta", "gamma"}, {});
  EXPECT_NE(message({"influence.period=2"}, std::move(empty)).find("targets are empty"), std::string::npos);
  EXPECT_NE(message({"mixer={name: file, path: " + (folder / "weights.yaml").string() + "}"}, tiny_dataset())
                .find("unknown domain 'delta'"),
            std::string::npos);
  EXPECT_NE(message({"curriculum={name: score, scores: none, column: x}"}, tiny_dataset()).find("none"),
            std::string::npos);
}

TEST(OnlineSelection, NeedsAReferenceOfTheSameTokenizerThatIsThere) {
  const auto message = [](const std::string& selector) {
    try {
      run_steps(1, {selector}, 1);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(message("selector=rho1").find("selector.reference is missing"), std::string::npos);
  EXPECT_NE(message("selector={name: rho1, reference: /nowhere}").find("/nowhere"), std::string::npos);
}

}  // namespace
}  // namespace cadre::trainer
