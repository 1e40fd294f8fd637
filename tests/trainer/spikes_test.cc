// Loss spikes: what is one, what is done about it, and broken hardware; profiles of single steps.
#include "trainer/run/spikes.h"

#include <chrono>

#include "parallel/base/files.h"
#include "tests/trainer/run_loop.h"
#include "trainer/run/profile.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using testing::lines;
using testing::run_loop;
using testing::TempFolder;

TEST(SpikeDetector, ScoresInStandardDeviationsOfTheWindow) {
  SpikeDetector detector({.policy = SpikePolicy::kSkip, .z = 3, .window = 20});
  EXPECT_EQ(detector.score(100, 100), 0) << "nothing to compare with";
  for (int i = 0; i < 40; ++i) detector.accept(2 + (i % 2 ? 0.5 : -0.5), 1);  // mean 2, deviation 0.5
  EXPECT_NEAR(detector.score(3.5, 1), 3, 1e-9);
  EXPECT_NEAR(detector.score(1, 1), 0, 1e-9) << "a lower loss is welcome; the norm is as always";
  EXPECT_FALSE(detector.suspicious(3.4, 1));
  EXPECT_TRUE(detector.suspicious(3.6, 1));
  EXPECT_TRUE(detector.suspicious(2, 2)) << "the gradient norm alone is enough";
  SpikeDetector copy({.policy = SpikePolicy::kSkip, .z = 3, .window = 20});
  copy.load(nlohmann::json::parse(detector.save().dump()));
  EXPECT_EQ(copy.score(3.5, 1.2), detector.score(3.5, 1.2));
}

TEST(SpikeDetector, AShorterWindowForgetsWhatIsTooOld) {
  SpikeDetector before({.policy = SpikePolicy::kSkip, .z = 3, .window = 40}),
      after({.policy = SpikePolicy::kSkip, .z = 3, .window = 20}),
      fresh({.policy = SpikePolicy::kSkip, .z = 3, .window = 20});
  for (int i = 0; i < 40; ++i) before.accept(i < 20 ? 9 : 2 + 0.1 * (i % 2), 1);
  after.load(before.save());
  for (int i = 0; i < 20; ++i) {
    after.accept(2 + 0.1 * (i % 2), 1);
    fresh.accept(2 + 0.1 * (i % 2), 1);
  }
  EXPECT_EQ(after.score(3, 1), fresh.score(3, 1));
}

std::vector<double> curve(const fs::path& out) {
  std::vector<double> losses;
  for (const auto& line : lines(out, "kind", "train")) losses.push_back(line["loss"]);
  return losses;
}
// Documents differ enough that a low limit finds "spikes" in the tiny run.
const std::vector<std::string> kSensitive = {"train.steps=60", "spikes.window=10", "spikes.z=1.7",
                                             "optim.lr=1.0e-3"};
std::vector<std::string> with(std::vector<std::string> more) {
  more.insert(more.begin(), kSensitive.begin(), kSensitive.end());
  return more;
}

TEST(Spikes, SkippingLeavesOutTheUpdateAndResumesWithTheSameBits) {
  const TempFolder whole, parts;
  ASSERT_EQ(run_loop(1, whole.path(), with({"spikes.policy=skip"})), ExitCode::kOk);
  const auto spikes = lines(whole.path(), "event", "spike");
  ASSERT_GT(spikes.size(), 0u);
  EXPECT_EQ(lines(whole.path(), "kind", "train").back()["skipped_steps"], spikes.size());
  // Stopped in the middle, the detector's history must come back too.
  std::vector<std::string> first = with({"spikes.policy=skip", "checkpoint.every=33"});
  ASSERT_EQ(run_loop(1, parts.path(), first), ExitCode::kOk);
  fs::remove_all(parts.path() / "checkpoints" / checkpoint_name(60));
  ASSERT_EQ(run_loop(1, parts.path(), first), ExitCode::kOk);
  EXPECT_EQ(curve(parts.path()), curve(whole.path()));
}

TEST(Spikes, RollingBackGoesOnWithTheDataThatFollows) {
  const TempFolder folder;
  ASSERT_EQ(run_loop(2, folder.path(),
                     with({"spikes.policy=rollback", "checkpoint.every=5", "spikes.max_rollbacks=1000",
                           "eval.every=3"})),
            ExitCode::kOk);
  const auto rollbacks = lines(folder.path(), "event", "rollback");
  ASSERT_GT(rollbacks.size(), 0u);
  std::vector<uint64_t> evaluated, expected;
  for (const auto& line : lines(folder.path(), "kind", "eval")) evaluated.push_back(line["step"]);
  for (uint64_t step = 3; step <= 60; step += 3) expected.push_back(step);
  EXPECT_EQ(evaluated, expected) << "also of the steps that were made again";
  EXPECT_EQ(curve(folder.path()).size(), 60u) << "the file reads as one run";
  // A step that was repeated saw another batch: with the same one it would only spike again.
  EXPECT_TRUE(fs::exists(folder.path() / "checkpoints" / checkpoint_name(60)));
}

TEST(Spikes, StopAndTooManyRollbacksAreNumericFailures) {
  const TempFolder a, b;
  for (const auto& [folder, more] :
       {std::pair{&a, std::vector<std::string>{"spikes.policy=stop"}},
        std::pair{&b, std::vector<std::string>{"spikes.policy=rollback", "checkpoint.every=5",
                                               "spikes.max_rollbacks=1", "spikes.z=0.5"}}}) {
    try {
      run_loop(1, folder->path(), with(more));
      ADD_FAILURE() << more[0] << " went on";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kNumeric) << error.what();
    }
  }
}

// Makes one call give a gradient that is far too large, as a flipped bit would; the next call is right again.
class Flaky : public optim::Objective<Real> {
 public:
  Flaky(std::unique_ptr<optim::Objective<Real>> right, int bad_call)
      : right_(std::move(right)), bad_call_(bad_call) {}
  double loss_and_grad(device::View<const device::wide_t<Real>, 1> logp, const Batch& batch,
                       const BatchCounts& counts, device::View<device::wide_t<Real>, 1> dlogp) override {
    double loss = right_->loss_and_grad(logp, batch, counts, dlogp);
    if (++calls_ == bad_call_) {
      loss *= 64;
      for (int64_t i = 0; i < dlogp.size(); ++i) dlogp[i] *= 64;
    }
    return loss;
  }

 private:
  std::unique_ptr<optim::Objective<Real>> right_;
  int bad_call_, calls_ = 0;
};

TEST(Spikes, TheShadowStepTellsBrokenHardwareFromBadData) {
  static const Dataset dataset = testing::tiny_dataset();
  for (const bool shadow : {true, false}) {
    comm::run_threads(1, [&](comm::World& world) {
      TrainState state(
          testing::tiny_run({"train.micro_batch=8", "spikes.policy=skip", "spikes.window=10", "spikes.z=50",
                             std::string("spikes.shadow=") + (shadow ? "true" : "false")}),
          dataset, world);
      state.objective = std::make_unique<Flaky>(std::move(state.objective), 15);
      std::string message;
      for (int step = 1; step <= 16 && message.empty(); ++step) {
        try {
          const StepReport report = train_step(state, {});
          EXPECT_EQ(report.spike, step == 15);
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ExitCode::kNumeric);
          EXPECT_EQ(step, 15);
          message = error.what();
        }
      }
      EXPECT_EQ(message.find("step 15 computed twice") != std::string::npos, shadow) << message;
    });
  }
}

TEST(Profile, HoldsTheStepsThatWereAskedFor) {
  const TempFolder folder;
  ASSERT_EQ(run_loop(1, folder.path(), {"train.steps=6", "profile.steps=3-4"}), ExitCode::kOk);
  const auto trace =
      nlohmann::json::parse(base::read_file(folder.path() / "profile" / "rank-00000.json", ExitCode::kData));
  std::map<std::string, int> count;
  double step_us = 0, phases_us = 0;
  for (const auto& e : trace["traceEvents"]) {
    if (e["ph"] != "X") continue;
    const std::string name = e["name"];
    ++count[name];
    (name.starts_with("step") ? step_us : phases_us) += e["dur"].get<double>();
  }
  EXPECT_EQ(count["step 3"], 1);
  EXPECT_EQ(count["step 4"], 1);
  EXPECT_EQ(count.count("step 2") + count.count("step 5"), 0u);
  EXPECT_EQ(count["backward"], 2 * 4) << "four micro-batches a step";
  EXPECT_GT(phases_us, 0);
  EXPECT_LE(phases_us, step_us);
}

// A recorder as an accelerator has one.
struct PretendedTrace : device::KernelTrace {
  std::vector<device::KernelSpan> finish() override {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    const int64_t end = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
    return {{"gemm<bf16>", 7, end - 2000, end - 500, 0}, {"copy to the host", 9, end - 400, end, 64}};
  }
};

TEST(Profile, LaysKernelsBesideTheStepsThatRanThem) {
  const TempFolder folder;
  int begun = 0;
  Profile profile({.first = 2, .last = 3}, folder.path(), 1, [&] {
    ++begun;
    return device::TraceStart{std::make_unique<PretendedTrace>(), ""};
  });
  for (uint64_t step = 1; step <= 4; ++step) {
    profile.before_step(step);
    profile.after_step(step);
  }
  EXPECT_EQ(begun, 1);
  const auto trace =
      nlohmann::json::parse(base::read_file(folder.path() / "profile" / "rank-00001.json", ExitCode::kData));
  double first_step = 0;
  std::map<std::string, nlohmann::json> found;
  for (const auto& e : trace["traceEvents"]) {
    if (e["name"] == "step 2") first_step = e["ts"];
    if (e.value("cat", "") == "kernel") found[e["name"]] = e;
    if (e["name"] == "thread_name") found[e["args"]["name"]] = e;
  }
  ASSERT_EQ(found.count("gemm<bf16>"), 1u) << trace;
  const nlohmann::json gemm = found["gemm<bf16>"], copy = found["copy to the host"];
  EXPECT_NEAR(gemm["dur"].get<double>(), 1.5, 0.51) << "us; times of today have a quarter left";
  EXPECT_LT(std::abs(gemm["ts"].get<double>() - first_step), 60e6) << "the same clock as the steps";
  EXPECT_EQ(gemm["tid"], found["stream 7"]["tid"]);
  EXPECT_EQ(copy["tid"], found["stream 9"]["tid"]);
  EXPECT_EQ(copy["args"]["bytes"], 64);
}

TEST(Profile, IsWrittenWithoutKernelsWhereNoneCanBeRecorded) {
  const TempFolder folder;
  Profile profile({.first = 1, .last = 1}, folder.path(), 0, [] {
    return device::TraceStart{nullptr, "no recorder here"};
  });
  profile.before_step(1);
  profile.after_step(1);
  EXPECT_NE(base::read_file(folder.path() / "profile" / "rank-00000.json", ExitCode::kData).find("step 1"),
            std::string::npos);
}

}  // namespace
}  // namespace cadre::trainer
