// Influence probes in whole runs: they change nothing, and their results do not depend on the layout or on a
// restart.
#include "trainer/run/probe.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/influence_estimate.h"
#include "parallel/base/files.h"
#include "tests/trainer/run_fixture.h"

namespace cadre::trainer {
namespace {

using namespace testing;

// A probe scores 4 micro-batches of 2 sequences: one step of 8.
std::vector<std::string> probing(std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"influence.period=4", "influence.micro_batches=4",
                             "influence.tokens_per_domain=60", "eval.tokens_per_domain=60"});
  return more;
}

std::vector<ProbeReport> probes(const std::vector<StepReport>& reports) {
  std::vector<ProbeReport> all;
  for (const StepReport& r : reports) {
    if (r.probe) all.push_back(*r.probe);
  }
  return all;
}

TEST(Probe, TrainingIsBitEqualWithAndWithoutProbes) {
  const std::string balance = "moe.balance={name: previous_batch, coef: 0.1}";
  EXPECT_EQ(losses(run_steps(1, probing({balance}), 14)), losses(run_steps(1, {balance}, 14)));
  EXPECT_EQ(losses(run_steps(2, probing({"mesh.ep=2"}), 9)), losses(run_steps(2, {"mesh.ep=2"}, 9)));
}

TEST(Probe, ComesEveryPeriodAndScoresAsManySequencesAsItSays) {
  const auto reports =
      run_steps(1, probing({"influence.micro_batches=6"}), 14);  // 12 sequences: two steps of 8
  std::vector<size_t> at;
  for (size_t i = 0; i < reports.size(); ++i) {
    if (reports[i].probe) at.push_back(i);
  }
  EXPECT_EQ(at, (std::vector<size_t>{5, 9, 13}));  // begun after 4, 8 and 12 steps
  double tokens = 0;
  for (const double t : reports[5].probe->sums[0].tokens) tokens += t;
  EXPECT_EQ(tokens, double(reports[4].counts.trained_tokens + reports[5].counts.trained_tokens));
  for (const ProbeReport& probe : probes(reports)) EXPECT_LT(probe.identity_error, 1e-5);
}

void expect_same(const ProbeReport& a, const ProbeReport& b, double tolerance, const std::string& what) {
  ASSERT_EQ(a.targets, b.targets);
  for (size_t i = 0; i < a.targets.size(); ++i) {
    const auto x = data::estimate_influence(a.sums[i]), y = data::estimate_influence(b.sums[i]);
    for (size_t k = 0; k < x.value.size(); ++k) {
      EXPECT_EQ(a.sums[i].pieces[k], b.sums[i].pieces[k]) << what;
      // One document alone has no error.
      const double error = a.sums[i].pieces[k] > 1 ? x.error[k] : 0, scale = std::abs(x.value[k]) + error;
      EXPECT_NEAR(x.value[k], y.value[k], tolerance * scale)
          << what << ", target " << a.targets[i] << ", domain " << k;
      if (a.sums[i].pieces[k] > 1) {
        EXPECT_NEAR(x.error[k], y.error[k], tolerance * scale) << what;
      }
    }
  }
}

TEST(Probe, GivesTheSameForAnyRanksExpertDegreeAndShardingOfTheOptimizer) {
  // The expert choices of a float model can differ where two scores are nearly equal; these steps have none.
  const std::vector<std::string> base =
      probing({"moe.balance={name: previous_batch, coef: 0.01}", "influence.targets=domains"});
  const auto expected = probes(run_steps(1, base, 7));
  ASSERT_EQ(expected.size(), 1u);
  ASSERT_EQ(expected[0].targets, (std::vector<std::string>{"alpha", "beta", "gamma"}));
  for (const auto& [ranks, layout] : {std::pair{2, "mesh.ep=1"},
                                      {2, "mesh.ep=2"},
                                      {4, "mesh.ep=2"},
                                      {2, "mesh.zero=0"},
                                      {1, "train.micro_batch=8"}}) {
    auto overrides = base;
    overrides.push_back(layout);
    if (std::string(layout).starts_with("train")) overrides.push_back("influence.micro_batches=1");
    const auto found = probes(run_steps(ranks, overrides, 7));
    ASSERT_EQ(found.size(), 1u) << layout;
    expect_same(expected[0], found[0], 2e-3, layout);
  }
}

TEST(Probe, GoesOnAfterARestartInItsMiddle) {
  const auto overrides = probing({"influence.targets=domains"});  // three steps a probe: 5 to 7, 9 to 11, ...
  const auto whole = probes(run_steps(1, overrides, 12));
  ASSERT_EQ(whole.size(), 2u);
  for (const uint64_t stop : {6, 10}) {
    TempFolder folder;
    auto parts = probes(run_steps(1, overrides, stop, folder.path()));
    for (const ProbeReport& p : probes(run_steps(1, overrides, 12, folder.path()))) parts.push_back(p);
    ASSERT_EQ(parts.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      for (size_t target = 0; target < 3; ++target) {
        EXPECT_EQ(parts[i].sums[target].score, whole[i].sums[target].score) << "stopped after " << stop;
        EXPECT_EQ(parts[i].sums[target].tokens, whole[i].sums[target].tokens);
      }
    }
  }
}

TEST(Probe, MayBeginAtARestartAndIsForgottenByACheckpointWithoutIt) {
  TempFolder folder;
  run_steps(1, {}, 6, folder.path());
  static const Dataset dataset = tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(tiny_run(probing()), dataset, world);
    const auto probe_to = [&](uint64_t step) {
      std::vector<StepReport> reports;
      while (state.progress.step < step) reports.push_back(train_step(state, {}));
      return probes(reports);
    };
    EXPECT_EQ(probe_to(10).size(), 2u);  // begun after 4 and 8 steps
    TensorReader reader(*newest_checkpoint(folder.path(), state.model.mesh.data()));
    restore(state, reader);  // as a rollback does
    EXPECT_EQ(state.progress.step, 6u);
    EXPECT_FALSE(state.probe->has_gradients());
    EXPECT_EQ(probe_to(10).size(), 1u);
  });
}

// Windows go round all of a target's text, and in each every domain keeps its weight.
TEST(TargetWindows, ReadAllOfTheTextInTurnWithTheSameWeights) {
  const auto corpus = tiny_corpus(2, 60);
  RunConfig config = tiny_run({"influence.tokens_per_probe=32"});
  InfluenceTarget target{"mean", {}, {0.001, 0, 0.004}};
  for (int64_t d = 0; d < 60; ++d) target.documents.push_back(d);
  const TargetWindows windows(*corpus, target, config);
  double all[3] = {0, 0, 0};
  for (int64_t d = 0; d < 60; ++d) all[d % 3] += double(corpus->document(d).length - 1);
  std::map<std::pair<int64_t, int32_t>, int> seen;
  for (int64_t probe = 0; probe < 40; ++probe) {
    const auto [rows, weight] = windows.at(probe);
    EXPECT_LE(rows.num_rows(), 4) << "two sequences of 16 tokens for each of two domains";
    double mass[3] = {0, 0, 0};
    for (int64_t i = 0; i < rows.micro_batches(2, 1); ++i) {
      const Batch batch = rows.micro_batch(i, 2, 0, 1);
      for (size_t t = 0; t < batch.tokens.size(); ++t) {
        if (batch.loss_mask[t] == 0) continue;
        mass[batch.domain[t]] += weight[size_t(batch.domain[t])];
        ++seen[{batch.document[t], batch.position[t]}];
      }
    }
    EXPECT_NEAR(mass[0], 0.001 * all[0], 1e-9);
    EXPECT_EQ(mass[1], 0);
    EXPECT_NEAR(mass[2], 0.004 * all[2], 1e-9);
  }
  int64_t documents = 0;
  for (int64_t d = 0; d < 60; ++d) documents += seen.contains({d, 0});
  EXPECT_EQ(documents, 40) << "all documents of the two domains with weight";
  config.influence.tokens_per_probe = 0;
  const TargetWindows whole(*corpus, target, config);
  EXPECT_EQ(whole.at(0).rows.num_rows(), whole.at(7).rows.num_rows());
  EXPECT_EQ(whole.at(0).rows.trained_tokens(), int64_t(all[0] + all[2]));
}

TEST(Probe, CountsTheTokensOfEachDomainByExpertOnAnyLayout) {
  std::vector<LayerDomains> expected;
  for (const auto& [ranks, layout] : {std::pair{1, "mesh.ep=1"}, {2, "mesh.ep=2"}, {4, "mesh.ep=2"}}) {
    // Step 1 has a line with counts; a probe is under way in step 11, the next that has.
    const auto reports = run_steps(ranks,
                                   {layout, "influence.period=10", "influence.tokens_per_domain=60",
                                    "eval.tokens_per_domain=60", "influence.micro_batches=4"},
                                   11);
    ASSERT_EQ(reports[0].domain_experts.size(), 2u);
    EXPECT_TRUE(reports[1].domain_experts.empty());
    ASSERT_TRUE(reports[10].probe) << "both taps at once";
    ASSERT_EQ(reports[10].domain_experts.size(), 2u);
    for (const StepReport* r : {&reports[0], &reports[10]}) {
      for (size_t layer = 0; layer < 2; ++layer) {
        std::vector<double> by_expert(4, 0.0);
        for (size_t k = 0; k < 3; ++k) {
          double tokens = 0;
          for (size_t e = 0; e < 4; ++e) {
            tokens += r->domain_experts[layer].tokens[k][e];
            by_expert[e] += r->domain_experts[layer].tokens[k][e];
          }
          EXPECT_EQ(tokens, 2 * r->domain_tokens[k]) << "two experts a token";
        }
        EXPECT_EQ(by_expert, r->expert_tokens[layer]);
      }
    }
    if (expected.empty()) expected = reports[0].domain_experts;
    for (size_t layer = 0; layer < 2; ++layer) {
      EXPECT_EQ(reports[0].domain_experts[layer].layer, int(layer) + 1);
      EXPECT_EQ(reports[0].domain_experts[layer].tokens, expected[layer].tokens) << ranks << " ranks";
    }
  }
}

// Same text in training and target: training on a domain must help that domain most.
TEST(Probe, FindsTheDomainThatTheTargetIsMadeOf) {
  const auto overrides = probing({"influence.targets=domains", "train.steps=200",
                                  "influence.micro_batches=40", "influence.period=30", "influence.ema=0"});
  const auto found = probes(run_steps(1, overrides, 80));
  ASSERT_GE(found.size(), 2u);
  const ProbeReport& last = found.back();
  for (size_t target = 0; target < 3; ++target) {
    const auto s = data::estimate_influence(last.sums[target]);
    const size_t best = size_t(std::max_element(s.value.begin(), s.value.end()) - s.value.begin());
    EXPECT_EQ(best, target) << fmt::format("{} +- {}", fmt::join(s.value, " "), fmt::join(s.error, " "));
  }
}

TEST(Probe, GimLearnsFromProbesTheSameWithOrWithoutARestart) {
  // The noise gate would stay shut on text as small as this.
  const auto overrides =
      probing({"mixer={name: gim, period: 4, gate: false, max_epochs: 10}", "influence.period=0"});
  const auto whole = run_steps(1, overrides, 16);
  EXPECT_EQ(whole[4].domain_weight, whole[0].domain_weight);
  EXPECT_NE(whole[15].domain_weight, whole[0].domain_weight);
  for (const uint64_t stop : {7, 8}) {
    TempFolder folder;
    run_steps(1, overrides, stop, folder.path());
    const auto rest = run_steps(1, overrides, 16, folder.path());
    EXPECT_EQ(rest.back().domain_weight, whole.back().domain_weight) << "stopped after " << stop;
    EXPECT_EQ(rest.back().loss, whole.back().loss);
  }
}

TEST(Probe, AioliGetsTheHeldOutLossesThatItAsksFor) {
  const auto reports = run_steps(
      1, probing({"mixer={name: aioli, every: 12, rounds: 1, steps: 2}", "influence.period=0"}), 20);
  const auto& before = reports[11].domain_weight;
  for (const double w : before) EXPECT_NEAR(w, 1.0 / 3, 1e-12);
  for (size_t step = 12; step < 18; ++step) {  // three trials of two steps, 0.625 on one domain each
    EXPECT_NEAR(*std::max_element(reports[step].domain_weight.begin(), reports[step].domain_weight.end()),
                0.625, 1e-12)
        << step;
  }
}

std::string failure(const std::vector<std::string>& overrides, Dataset set) {
  std::string message;
  comm::run_threads(1, [&](comm::World& world) {
    try {
      TrainState state(tiny_run(overrides), set, world);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData);
      message = e.what();
    }
  });
  return message;
}

TEST(Probe, SaysWhatMuonsDirectionLacks) {
  const TempFolder folder;
  const auto said = [&](const std::string& direction) {
    const auto out = folder / direction;
    comm::run_threads(1, [&](comm::World& world) {
      const Dataset dataset = tiny_dataset();
      RunConfig config =
          tiny_run(probing({"optim=muon", "train.steps=1", "influence.direction=" + direction}));
      config.out = out.string();
      train(config, dataset, world, {.measure_peak = false});
    });
    return base::read_file(out / "metrics.jsonl", ExitCode::kData).find("influence with optim muon") !=
           std::string::npos;
  };
  EXPECT_TRUE(said("optimizer"));
  EXPECT_FALSE(said("gradient"));
}

TEST(Probe, RefusesTargetsThatAreMissingEmptyOrJudgedOn) {
  Dataset none = tiny_dataset();
  none.valid.reset();
  EXPECT_NE(failure(probing(), std::move(none)).find("no held-out split"), std::string::npos);
  Dataset empty = tiny_dataset();
  empty.valid = data::make_memory_corpus({"alpha", "beta", "gamma"}, {});
  EXPECT_NE(failure(probing(), std::move(empty)).find("targets are empty"), std::string::npos);
  EXPECT_NE(
      failure(probing({"eval.tokens_per_domain=1000"}), tiny_dataset()).find("too little held-out text"),
      std::string::npos);
  EXPECT_EQ(failure(probing(), tiny_dataset()), "");
}

}  // namespace
}  // namespace cadre::trainer
