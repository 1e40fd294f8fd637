// DoReMi: the excess loss that its mixer learns from, and a study that makes reference, proxy and final run.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "tests/trainer/run_fixture.h"
#include "trainer/study/study.h"

namespace cadre::trainer {
namespace {

using namespace testing;

// A reference: a run of some steps, saved.
std::string reference() {
  static TempFolder folder;
  static const bool made = [] {
    run_steps(1, {"seed=3", "train.steps=30"}, 30, folder.path() / "checkpoints");
    return true;
  }();
  return made ? folder.path().string() : "";
}
std::vector<std::string> with_doremi(std::vector<std::string> more) {
  more.push_back("mixer={name: doremi, reference: " + reference() + "}");
  more.push_back("data.prefetch=0");
  more.push_back("moe.balance=none");
  return more;
}

// The weights after one step from the models' own losses, token by token.
TEST(Doremi, LearnsFromTheExcessLossOfEveryDomain) {
  static const Dataset dataset = tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(tiny_run(with_doremi({})), dataset, world);
    data::LoadedBatch batch;
    state.on_batch = [&](const data::LoadedBatch& b) { batch = b; };
    std::vector<double> excess(3, 0.0), tokens(3, 0.0);
    TrainState model(tiny_run({}), dataset, world), frozen(tiny_run({}), dataset, world);
    TensorReader reader(find_checkpoint(reference()));
    restore_model(frozen.model, reader);
    train_step(state, {});
    for (const Batch& micro : batch.micro) {
      const auto ours = model.model.decoder.forward(micro, false);
      const std::vector<double> own(ours.begin(), ours.end());
      const auto theirs = frozen.model.decoder.forward(micro, false);
      for (size_t t = 0; t < own.size(); ++t) {
        if (micro.loss_mask[t] == 0) continue;
        tokens[size_t(micro.domain[t])] += 1;
        excess[size_t(micro.domain[t])] += std::max(0.0, double(theirs[int64_t(t)]) - own[t]);
      }
    }
    double sum = 0, expected[3] = {};
    for (size_t k = 0; k < 3; ++k) sum += expected[k] = std::exp(excess[k] / tokens[k]);
    const auto weights = state.mixer->weights({});
    for (size_t k = 0; k < 3; ++k) {
      EXPECT_GT(excess[k], 0);
      EXPECT_NEAR(weights[k], 0.999 * expected[k] / sum + 0.001 / 3, 1e-6) << "domain " << k;
    }
  });
}

TEST(Doremi, IsTheSameOnAnyLayoutAndAfterARestart) {
  const auto weights = [](const std::vector<StepReport>& reports) {
    std::vector<double> all;
    for (const StepReport& r : reports) all.insert(all.end(), r.domain_weight.begin(), r.domain_weight.end());
    return all;
  };
  const auto one = run_steps(1, with_doremi({}), 8);
  const std::vector<double> first = one.front().domain_weight, last = one.back().domain_weight;
  EXPECT_GT(std::abs(last[0] - first[0]) + std::abs(last[1] - first[1]), 0.01) << "the weights move";
  expect_same_curve(weights(run_steps(2, with_doremi({"mesh.ep=2"}), 8)), weights(one), "two ranks");
  TempFolder folder;
  run_steps(1, with_doremi({}), 5, folder.path());
  const auto rest = run_steps(1, with_doremi({}), 8, folder.path());
  expect_same_curve(weights(rest), weights({one.begin() + 5, one.end()}), "after a restart", 0);
}

TEST(Doremi, ReferenceProxyAndFinalRunAreOneStudy) {
  TempFolder folder;
  std::ofstream(folder.path() / "run.yaml") << kTinyRun;
  const std::string file = fmt::format(
      "study:\n  base: run.yaml\n  out: {}\n  set: {{train.steps: 6}}\n  variants:\n"
      "    natural: {{mixer: natural}}\n"
      "    doremi-proxy: {{mixer: {{name: doremi, reference: \"run:natural\"}}}}\n"
      "    doremi: {{mixer: {{name: file, path: \"average:doremi-proxy\"}}}}\n"
      "  axes: {{seed: [1, 2]}}\n",
      (folder.path() / "out").string());
  base::Section root = base::parse_run_text(file, (folder.path() / "study.yaml").string(), {});
  const study::StudyConfig config = study::read_study(root.section("study"));
  static const Dataset dataset = tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    EXPECT_EQ(study::run_study(config, world, {.train = {.measure_peak = false}, .dataset = &dataset}),
              ExitCode::kOk);
  });
  const auto proxy = study::average_weights(study::folder_of(config, "doremi-proxy,seed=2"));
  const auto final_run = study::average_weights(study::folder_of(config, "doremi,seed=2"));
  for (const auto& [name, w] : proxy) EXPECT_NEAR(final_run.at(name), w, 1e-9) << name;
  EXPECT_EQ(study::collect_results(config).size(), 6u);
}

}  // namespace
}  // namespace cadre::trainer
