// Studies: what a study file means, and that its runs are those that would have been made one by one.
#include "trainer/study/study.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "parallel/base/files.h"
#include "parallel/base/run_file.h"
#include "parallel/base/student.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/run/stop.h"
#include "trainer/study/plots.h"
#include "trainer/study/statistics.h"
#include "trainer/study/study_report.h"

namespace cadre::study {
namespace {

using trainer::testing::TempFolder;

TEST(Statistics, StudentsTIsThatOfTheTables) {
  for (const auto& [df, x] :
       {std::pair{1, 12.7062}, {2, 4.30265}, {4, 2.77645}, {9, 2.26216}, {1000, 1.96234}})
    EXPECT_NEAR(student_t95(df), x, 1e-4) << df;
  // One degree of freedom is Cauchy's distribution, two have a closed form, many are normal.
  for (const double x : {-3.0, 0.0, 0.5, 40.0}) {
    EXPECT_NEAR(base::student_t_cdf(x, 1), 0.5 + std::atan(x) / std::numbers::pi, 1e-8) << x;
    EXPECT_NEAR(base::student_t_cdf(x, 2), 0.5 + x / (2 * std::sqrt(2 + x * x)), 1e-8) << x;
    EXPECT_NEAR(base::student_t_cdf(x, 1e12), 0.5 * std::erfc(-x / std::sqrt(2.0)), 1e-6) << x;
  }
  const Summary s = summarise(std::vector<double>{1, 2, 6});
  EXPECT_DOUBLE_EQ(s.mean, 3);
  EXPECT_NEAR(s.sd, std::sqrt(7.0), 1e-12);
  EXPECT_NEAR(s.half95, 4.30265 * std::sqrt(7.0 / 3), 1e-4);
  EXPECT_TRUE(std::isnan(summarise(std::vector<double>{5}).half95));
}

TEST(Statistics, SpearmanSharesRanksOfTies) {
  EXPECT_EQ(ranks(std::vector<double>{5, 1, 5, 0}), (std::vector<double>{3.5, 2, 3.5, 1}));
  EXPECT_NEAR(spearman(std::vector<double>{1, 2, 3, 4}, std::vector<double>{1, 8, 27, 64}), 1, 1e-15);
  // Ranks 1 2.5 2.5 4 against 1 3 2 4: covariance 4.5, variances 4.5 and 5.
  EXPECT_NEAR(spearman(std::vector<double>{1, 2, 2, 9}, std::vector<double>{1, 3, 2, 4}),
              4.5 / std::sqrt(4.5 * 5), 1e-12);
  EXPECT_TRUE(std::isnan(pearson(std::vector<double>{1, 1, 1}, std::vector<double>{1, 2, 3})));
}

// The best predictor of a noisy outcome is its true mean; its correlation with the seed means is the ceiling.
TEST(Statistics, NoiseCeilingIsTheCorrelationOfTheTruth) {
  const base::Philox random(4);
  std::vector<std::vector<double>> outcomes;
  std::vector<double> truth, means;
  for (uint64_t s = 0; s < 4000; ++s) {
    truth.push_back(random.normal(s));
    outcomes.emplace_back();
    for (uint64_t seed = 1; seed <= 3; ++seed)
      outcomes.back().push_back(truth.back() + 1.5 * random.normal(s, seed));
    means.push_back(mean(outcomes.back()));
  }
  EXPECT_NEAR(noise_ceiling(outcomes), pearson(truth, means), 0.02);
  const auto interval = bootstrap95(truth.size(), 200, 1, [&](std::span<const size_t> at) {
    std::vector<double> x, y;
    for (const size_t i : at) x.push_back(truth[i]), y.push_back(means[i]);
    return pearson(x, y);
  });
  EXPECT_LT(interval.low, pearson(truth, means));
  EXPECT_GT(interval.high, pearson(truth, means));
  EXPECT_LT(interval.high - interval.low, 0.05);
}

TEST(Plots, EscapeWhatTheyAreGivenAndStandAlone) {
  const std::string figure = dot_chart("<b>", "nats", {{"a<b", {1, 2}, 1.5, 0.1}, {"c", {NAN}, NAN, NAN}});
  EXPECT_EQ(figure.find("<b>"), std::string::npos);
  EXPECT_NE(figure.find("a&lt;b"), std::string::npos);
  EXPECT_EQ(figure.find("nan"), std::string::npos);
  const std::string alone =
      svg_document(scatter_chart("t", "", "x", "y", {{"s", {{1, 2}, {2, 1}}}, {"u", {}}}));
  EXPECT_TRUE(alone.starts_with("<svg xmlns='http://www.w3.org/2000/svg' viewBox="));
  EXPECT_TRUE(alone.ends_with("</svg>\n"));
}

// A folder with the base run and a study file.
class StudyTest : public testing::Test {
 protected:
  void write_base() { std::ofstream(folder_.path() / "run.yaml") << trainer::testing::kTinyRun; }
  std::string study_file(const std::string& rest) const {
    return fmt::format("study:\n  base: run.yaml\n  out: {}\n{}", (folder_.path() / "out").string(), rest);
  }
  StudyConfig read(const std::string& rest, const std::vector<std::string>& overrides = {}) const {
    base::Section root = base::parse_run_text(study_file(rest), (folder_.path() / "study.yaml").string(),
                                              overrides, holds_paths);
    const StudyConfig config = read_study(root.section("study"));
    root.finish();
    return config;
  }
  std::string error_of(const std::string& rest) const {
    try {
      read(rest);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kUsage);
      return e.what();
    }
    return "";
  }
  ExitCode run(const std::string& rest, int ranks = 1, bool retry = false) {
    static const trainer::Dataset dataset = trainer::testing::tiny_dataset();
    ExitCode code = ExitCode::kOk;
    comm::run_threads(ranks, [&](comm::World& world) {
      const StudyConfig study = read(rest);
      const ExitCode ended = run_study(
          study, world, {.train = {.measure_peak = false}, .retry_failed = retry, .dataset = &dataset});
      if (world.rank() == 0) code = ended;
    });
    return code;
  }
  nlohmann::json results() const {
    return nlohmann::json::parse(base::read_file(folder_.path() / "out" / "results.json", ExitCode::kData));
  }
  void SetUp() override { write_base(); }
  TempFolder folder_;
};

TEST_F(StudyTest, MakesEveryCombinationOnce) {
  const StudyConfig study = read(
      "  axes: {mixer: [uniform, {name: temperature, tau: 2}], seed: [1, 2]}\n  set: {train.steps: 3}\n");
  std::vector<std::string> names;
  for (const StudyRun& run : study.runs) names.push_back(run.name);
  EXPECT_EQ(names,
            (std::vector<std::string>{"mixer=uniform,seed=1", "mixer=uniform,seed=2",
                                      "mixer=temperature,tau=2,seed=1", "mixer=temperature,tau=2,seed=2"}));
  EXPECT_EQ(study.runs[2].cell, "mixer=temperature,tau=2");
  const auto config = configure(study, study.runs[3], {});
  EXPECT_EQ(config.seed, 2u);
  EXPECT_EQ(config.train.steps, 3);
  EXPECT_EQ(config.mixer["tau"].as<double>(), 2);
}

// As on the command line: a key of a section changes that key, whether the file names the key, the section or neither.
TEST_F(StudyTest, AnOverrideOfOneKeyLeavesTheRestOfItsSection) {
  const std::string file =
      "  set: {train.steps: 3, mixer: {name: temperature, tau: 2}, optim: adamw}\n"
      "  variants: {a: {train.micro_batch: 2}, b: {}}\n  axes: {optim.lr: [1.0e-3]}\n";
  const auto runs = [&](const std::vector<std::string>& overrides) {
    const StudyConfig study = read(file, overrides);
    std::vector<trainer::RunConfig> configs;
    for (const StudyRun& run : study.runs) configs.push_back(configure(study, run, {}));
    return configs;
  };
  const auto before = runs({});
  const auto after = runs({"study.set.train.steps=5", "study.set.train.max_skips=7", "study.set.mixer.tau=3",
                           "study.set.optim.weight_decay=0.3", "study.set.eval.every=9",
                           "study.variants.b.train.micro_batch=1", "study.axes.optim.lr=[2.0e-3]"});
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); ++i) {
    EXPECT_EQ(after[i].train.steps, 5);
    EXPECT_EQ(after[i].train.max_skips, 7);
    EXPECT_EQ(after[i].train.global_batch, before[i].train.global_batch);  // the base's
    EXPECT_EQ(after[i].mixer["name"].as<std::string>(), "temperature");
    EXPECT_EQ(after[i].mixer["tau"].as<double>(), 3);
    EXPECT_EQ(after[i].eval.every, 9);
    EXPECT_EQ(after[i].eval.tokens_per_domain, before[i].eval.tokens_per_domain);
    EXPECT_EQ(after[i].train.micro_batch, i == 0 ? 2 : 1);
    EXPECT_EQ(after[i].optim["weight_decay"].as<double>(), 0.3);
    EXPECT_EQ(after[i].optim["lr"].as<double>(), 2e-3);
  }
  // A whole section replaces a section, as it does in a file.
  EXPECT_EQ(runs({"study.set.mixer={name: uniform}"})[0].mixer["tau"].IsDefined(), false);
  EXPECT_THROW(read(file, {"study.set.train.stepps=3"}), Error);
}

TEST_F(StudyTest, NamesTheKeyThatIsWrong) {
  EXPECT_NE(error_of("  axes: {mixer.nam: [gim]}\n").find("did you mean 'name'"), std::string::npos);
  EXPECT_NE(error_of("  axis: {seed: [1]}\n").find("did you mean 'axes'"), std::string::npos);
  EXPECT_NE(error_of("  axes: {seed: 1}\n").find("study.yaml:4: study.axes.seed: expected a list"),
            std::string::npos);
  EXPECT_NE(error_of("  axes: {seed: [1, 1]}\n").find("twice"), std::string::npos);
  EXPECT_NE(error_of("  set: {out: elsewhere}\n").find("`out` is given by the study"), std::string::npos);
  EXPECT_NE(error_of("  metric: eval_los\n").find("did you mean"), std::string::npos);
  EXPECT_NE(error_of("  variants: {b: {init: \"run:a\"}, a: {}}\n").find("not among those above it"),
            std::string::npos);
  EXPECT_NE(error_of("  variants: {a/b: {}}\n").find("names a folder"), std::string::npos);
}

constexpr const char* kSmall =
    "  axes: {mixer: [uniform, natural], seed: [1, 2]}\n  set: {train.steps: 6, eval.every: 3}\n";

TEST_F(StudyTest, ItsRunsAreThoseThatWouldHaveBeenMadeAlone) {
  for (const int ranks : {1, 2}) {
    ASSERT_EQ(run(kSmall, ranks), ExitCode::kOk);
    const StudyConfig study = read(kSmall);
    const auto results = collect_results(study);
    ASSERT_EQ(results.size(), 4u);
    for (const size_t i : {size_t(0), size_t(3)}) {
      TempFolder alone;
      comm::run_threads(ranks, [&](comm::World& world) {
        static const trainer::Dataset dataset = trainer::testing::tiny_dataset();
        auto config = configure(study, study.runs[i], {});
        config.out = alone.path().string();
        trainer::train(config, dataset, world, {.measure_peak = false});
      });
      const RunResult expected = read_result(alone.path(), "eval_loss");
      EXPECT_EQ(results[i].domains, expected.domains) << study.runs[i].name << ", ranks " << ranks;
      EXPECT_EQ(results[i].curve, expected.curve);
      EXPECT_EQ(results[i].curve.size(), 2u);
    }
    EXPECT_NE(results[0].value, results[1].value);
    EXPECT_FALSE(std::filesystem::exists(folder_of(study, study.runs[0].name) / "checkpoints"));
    std::filesystem::remove_all(folder_.path() / "out");
  }
}

TEST_F(StudyTest, AFinishedFolderIsReadForAnotherMetric) {
  ASSERT_EQ(run(kSmall), ExitCode::kOk);
  const auto before = collect_results(read(kSmall));
  const StudyConfig other = read(kSmall + std::string("  metric: train_loss\n"));
  const auto results = collect_results(other);
  ASSERT_EQ(results.size(), before.size());
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].value, read_result(folder_of(other, results[i].name), "train_loss").value);
    EXPECT_NE(results[i].value, before[i].value);
    EXPECT_EQ(results[i].name, before[i].name);
  }
}

TEST_F(StudyTest, GoesOnWhereItWasStopped) {
  ASSERT_EQ(run(kSmall), ExitCode::kOk);
  const nlohmann::json whole = results();
  std::filesystem::remove_all(folder_.path() / "out");
  for (int i = 0; i < 2; ++i) {  // each process takes one more step, then is asked to stop
    trainer::request_stop(true);
    EXPECT_EQ(run(kSmall), ExitCode::kStopped);
    trainer::request_stop(false);
  }
  EXPECT_TRUE(
      std::filesystem::exists(folder_.path() / "out/runs/mixer=uniform,seed=1/checkpoints/step-00000002"));
  ASSERT_EQ(run(kSmall), ExitCode::kOk);
  EXPECT_EQ(results(), whole);
  // Another settings' results cannot slip in.
  EXPECT_EQ(run(kSmall), ExitCode::kOk);
  std::filesystem::remove(folder_.path() / "out/runs/mixer=natural,seed=2/result.json");
  const std::string other = "  axes: {mixer: [uniform, natural], seed: [1, 2]}\n  set: {train.steps: 7}\n";
  EXPECT_THROW(run(other), Error);
}

TEST_F(StudyTest, ReportsARunThatFailsAndGoesOn) {
  const std::string file =
      "  axes: {optim.lr: [1.0e+30, 1.0e-3], seed: [1, 2]}\n  set: {train.steps: 8, train.max_skips: 2}\n";
  EXPECT_EQ(run(file), ExitCode::kNumeric);
  const nlohmann::json all = results();
  ASSERT_EQ(all["runs"].size(), 4u);
  EXPECT_EQ(all["runs"][0]["status"], "failed");
  EXPECT_NE(all["runs"][1]["error"].get<std::string>().find("train.max_skips is 2"), std::string::npos);
  EXPECT_EQ(all["runs"][3]["status"], "done");
  EXPECT_EQ(all["cells"][0]["failed"].size(), 2u);
  EXPECT_EQ(all["cells"][1]["n"], 2);
  EXPECT_NE(base::read_file(folder_.path() / "out/report.html", ExitCode::kData).find("Runs that failed"),
            std::string::npos);
  EXPECT_NE(base::read_file(folder_.path() / "out/results.md", ExitCode::kData).find("2 of them failed"),
            std::string::npos);
  EXPECT_EQ(run(file), ExitCode::kNumeric);  // not made again
  EXPECT_EQ(results(), all);
}

TEST_F(StudyTest, LaterRunsCanStartFromOrMixAsEarlierOnes) {
  const std::string file =
      "  variants:\n"
      "    first: {mixer: {name: temperature, tau: 3}}\n"
      "    average: {mixer: {name: file, path: \"average:first\"}}\n"
      "    longer: {init: \"run:first\", train.steps: 4}\n"
      "  axes: {seed: [1, 2]}\n"
      "  set: {train.steps: 6}\n";
  ASSERT_EQ(run(file), ExitCode::kOk);
  const StudyConfig study = read(file);
  const auto weights = average_weights(folder_of(study, "first,seed=2"));
  const auto copied = average_weights(folder_of(study, "average,seed=2"));
  ASSERT_EQ(weights.size(), 3u);
  for (const auto& [name, w] : weights) EXPECT_NEAR(copied.at(name), w, 1e-9) << name;
  const auto results = collect_results(study);
  EXPECT_LT(results[5].value, results[1].value + 0.05);  // starts where `first` ended
  // What they needed is gone when nobody needs it any more.
  EXPECT_FALSE(std::filesystem::exists(folder_of(study, "first,seed=1") / "checkpoints"));
}

// One fine-tuning, two rates for each objective, and runs that take the better one: all on a task of its own, with the data
// of each run opened by the study.
TEST_F(StudyTest, StagesFeedSweepsAndSweepsChooseForTheGrid) {
  const auto write = [&](const char* name, const char* text) {
    std::ofstream(folder_.path() / name)
        << "seed: 5\ndevice: cpu\nthreads: 1\ndata: {seq_len: 48, pack: false}\n"
        << "tasks: {name: arithmetic, levels: [1, 2], problems: 60, held_out: 4}\n"
        << "schedule: constant\nlog: {every: 1, tensorboard: false}\n"
        << text;
  };
  write("sft.yaml",
        "model: {dim: 16, layers: 2, heads: 2, kv_heads: 1, ffn_width: 24}\n"
        "moe: {num_experts: 4, top_k: 2, width: 12, balance: none}\n"
        "optim: {name: adamw, lr: 1.0e-3}\ntrain: {steps: 3, global_batch: 8, micro_batch: 4}\n");
  write("rl.yaml",
        "reward: {name: regex, pattern: \"[0-9a-h]\"}\n"
        "rollout: {group: 4, mini_batches: 2, max_new_tokens: 6, sequences: 12}\n"
        "optim: {name: adamw, lr: 1.0e-9}\ntrain: {steps: 6, global_batch: 8, micro_batch: 4}\n"
        "eval: {every: 1}\ncheckpoint: {every: 0}\n");
  std::string file = "study:\n  base: rl.yaml\n  out: ";
  file.append((folder_.path() / "out").string());
  file.append(
      "\n  metric: eval_reward\n  set: {init: \"stage:tuned\"}\n"
      "  stages: {first: {base: sft.yaml}, tuned: {base: sft.yaml, set: {init: \"stage:first\"}}}\n"
      "  sweep:\n    set: {init: \"stage:tuned\", seed: 9}\n    variants: {vespo: {objective: vespo}}\n"
      "    axes: {optim.lr: [1.0e-9, 3.0e-2]}\n"
      "  variants: {vespo: {objective: vespo, optim.lr: \"best:vespo\"}}\n"
      "  axes: {rollout.mini_batches: [1, 3]}\n"
      "  also: {set: {init: \"stage:tuned\", optim.lr: \"best:vespo\"}, variants: {grpo: {objective: "
      "grpo}}}\n");
  const auto study_of = [&](const std::string& text) {
    return read_study(
        base::parse_run_text(text, (folder_.path() / "study.yaml").string(), {}).section("study"));
  };
  const StudyConfig study = study_of(file);
  comm::run_threads(1, [&](comm::World& world) {
    EXPECT_EQ(run_study(study, world, {.train = {.measure_peak = false}}), ExitCode::kOk);
  });
  const auto results = collect_results(study);
  ASSERT_EQ(results.size(), 7u);
  EXPECT_EQ(results[1].steps, 3u);
  const std::string chosen = results[3].value > results[2].value ? "0.03" : "1e-09";
  for (const size_t i : {4u, 5u, 6u}) {
    EXPECT_EQ(results[i].curve.size(), 7u) << "one before the first update, and one after each";
    double last = 0;
    for (size_t k = 4; k < 7; ++k) last += results[i].curve[k].second / 3;
    EXPECT_DOUBLE_EQ(results[i].value, last);
    EXPECT_GE(results[i].reward.best, results[i].value);
    EXPECT_GT(results[i].reward.ess, 0);
    EXPECT_LE(results[i].reward.ess, 1 + 1e-9);
    const auto settings =
        YAML::LoadFile((folder_of(study, results[i].name) / "config.resolved.yaml").string());
    EXPECT_NEAR(settings["optim"]["lr"].as<double>(), std::stod(chosen), 1e-12);
    EXPECT_EQ(settings["model"]["dim"].as<int>(), 16) << "the stage's";
  }
  EXPECT_EQ(results[4].curve[0].second, results[6].curve[0].second) << "both begin where the stage ended";
  EXPECT_EQ(this->results()["cells"].size(), 3u) << "stages and sweeps are not compared";
  const std::string table = base::read_file(folder_.path() / "out/results.md", ExitCode::kData);
  EXPECT_NE(table.find("collapse step"), std::string::npos);
  EXPECT_NE(table.find("sweep,vespo,lr=3.0e-2"), std::string::npos) << table;
  const auto error = [&](const std::string& from, const std::string& to) -> std::string {
    std::string text = file;
    text.replace(text.find(from), from.size(), to);
    try {
      study_of(text);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(error("stage:tuned", "stage:tund").find("stands for stage 'tund'"), std::string::npos);
  EXPECT_NE(error("best:vespo", "best:gspo").find("swept variant 'gspo'"), std::string::npos);
  EXPECT_NE(error("axes: {optim.lr: [1.0e-9, 3.0e-2]}", "axes: {}").find("the one key that is swept"),
            std::string::npos);
}

// Below half of the best so far, and never back above.
TEST(RewardHistory, CollapsesWhereItStaysBelowHalfOfTheBest) {
  TempFolder folder;
  std::ofstream lines(folder.path() / "metrics.jsonl");
  const double curve[] = {0.4, 0.8, 0.3, 0.6, 0.39, 0.2, 0.1};
  for (int i = 0; i < 7; ++i) {
    lines << "{\"kind\": \"train\", \"step\": " << i + 1 << ", \"ess_fraction\": " << 1 - 0.1 * i
          << (i % 3 == 0 ? ", \"rollout_ms\": 1}" : "}") << "\n";
    lines << "{\"kind\": \"eval\", \"step\": " << i + 1 << ", \"eval_reward\": {\"a\": " << curve[i] + 0.1
          << ", \"b\": " << curve[i] - 0.1 << "}}\n";
  }
  lines.close();
  const RunResult result = read_result(folder.path(), "eval_reward");
  EXPECT_NEAR(result.value, (0.39 + 0.2 + 0.1) / 3, 1e-12);
  EXPECT_NEAR(result.reward.best, 0.8, 1e-12);
  EXPECT_EQ(result.reward.collapse_step, 5);
  EXPECT_NEAR(result.reward.ess, (0.8 + 0.5 + 0.4) / 3, 1e-12) << "after updates 3, 6 and 7";
  EXPECT_NEAR(result.worst, 0.0, 1e-12);
}

}  // namespace
}  // namespace cadre::study
