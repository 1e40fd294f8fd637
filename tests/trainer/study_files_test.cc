// The project's own study files: they are valid, and small versions of them run from end to end. That of
// study-influence.yaml is in audit_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/scores.h"
#include "data/tokenizer.h"
#include "parallel/base/files.h"
#include "tests/trainer/shard_fixture.h"
#include "trainer/audit/audit_config.h"
#include "trainer/selection/score_job.h"
#include "trainer/study/swarm.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;
using trainer::testing::add_split;
using trainer::testing::save;
using trainer::testing::TempFolder;

const fs::path kConfigs = CADRE_CONFIG_FOLDER;

TEST(StudyFiles, OfTheProjectAreValid) {
  int sections = 0;
  for (const auto& entry : fs::directory_iterator(kConfigs)) {
    const std::string file = entry.path().string();
    if (!entry.path().filename().string().starts_with("study-")) continue;
    base::Section root = base::parse_run_file(file, {});
    for (const char* name : {"study", "swarm", "audit"}) sections += root.has(name);
    if (root.has("study")) {
      EXPECT_GT(read_study(root.section("study")).runs.size(), 1u) << file;
    }
    if (root.has("swarm")) {
      EXPECT_GT(read_swarm(root.section("swarm")).draw.count, 1) << file;
    }
    if (root.has("audit")) {
      EXPECT_FALSE(audit::read_audit(root.section("audit")).parts.empty()) << file;
    }
  }
  EXPECT_GE(sections, 8);
}

// Runs of a few steps of the tiny model on shards of the tiny corpus.
class SmallStudy : public testing::Test {
 protected:
  void SetUp() override {
    manifest_ = trainer::testing::tiny_manifest(folder_ / "data");
    const auto tokenizer = data::make_byte_tokenizer();
    data::save_tokenizer(*tokenizer, manifest_.folder);
    manifest_.tokenizer_file = tokenizer->file_name();
    manifest_.tokenizer_sha256 = base::sha256_file(manifest_.folder / manifest_.tokenizer_file);
    add_split(manifest_, "train", 1, {60, 90});
    add_split(manifest_, "valid", 2, {90});
    std::string run = trainer::testing::kTinyRun;
    run.replace(run.find("data: {"), 7, fmt::format("data: {{manifest: {}, ", save(manifest_)));
    std::ofstream(folder_ / "run.yaml") << run << "influence: {tokens_per_domain: 200, micro_batches: 4}\n";
  }
  // Of a section of the file: the tiny run as its base, a folder here, and more overrides of the section.
  base::Section small(const std::string& file, const std::string& section,
                      std::vector<std::string> overrides) const {
    overrides.push_back("base=" + (folder_ / "run.yaml").string());
    overrides.push_back("out=" + (folder_ / (file + "-" + section)).string());
    for (std::string& o : overrides) o.insert(0, section + ".");
    return base::parse_run_file((kConfigs / (file + ".yaml")).string(), overrides).section(section);
  }
  StudyConfig study(const std::string& file, const std::vector<std::string>& overrides) const {
    return read_study(small(file, "study", overrides));
  }
  static void run(const StudyConfig& config) {
    comm::run_threads(1, [&](comm::World& world) {
      EXPECT_EQ(run_study(config, world, {.train = {.measure_peak = false}}), ExitCode::kOk);
    });
    for (const RunResult& result : collect_results(config)) EXPECT_EQ(result.error, "") << result.name;
    for (const char* name : {"results.json", "results.md", "results.svg", "report.html"})
      EXPECT_TRUE(fs::exists(fs::path(config.out) / name)) << name;
  }
  void score(const fs::path& model, const std::string& name) const {
    trainer::ScoreJob job{.checkpoint = model.string(),
                          .manifest = (manifest_.folder / "manifest.json").string(),
                          .name = name,
                          .options = {}};
    comm::run_threads(1, [&](comm::World& world) {
      EXPECT_EQ(trainer::score_documents(job, world, [](const std::string&) {}).documents, 150);
    });
  }
  TempFolder folder_;
  data::Manifest manifest_;
};

TEST_F(SmallStudy, OfMixingRunsEveryMixerAndTheBestOfItsSwarm) {
  const SwarmConfig swarm = read_swarm(
      small("study-mixing", "swarm", {"set={train.steps: 3, eval.every: 0}", "mixes=8", "tokens=2000"}));
  comm::run_threads(1, [&](comm::World& world) {
    EXPECT_EQ(run_swarm(swarm, world, {.train = {.measure_peak = false}}), ExitCode::kOk);
  });
  const StudyConfig config =
      study("study-mixing",
            {"axes={seed: [1]}", "set={train.steps: 6, eval.every: 3, eval.tokens_per_domain: 60}",
             "variants.gim.mixer.period=2", "variants.gim.mixer.gate=false",
             "variants.hindsight.mixer.path=" + (folder_ / "study-mixing-swarm/best.json").string()});
  run(config);
  const auto results = collect_results(config);
  ASSERT_EQ(results.size(), 10u);
  for (const RunResult& r : results) EXPECT_EQ(r.domains.size(), 3u) << r.name;
  // Learnt weights left the prior, and their averages were trained on.
  const auto learnt = average_weights(folder_of(config, "gim,seed=1")),
             averaged = average_weights(folder_of(config, "gim-average,seed=1"));
  for (const auto& [name, w] : learnt) EXPECT_NEAR(averaged.at(name), w, 1e-9) << name;
  EXPECT_NE(learnt, average_weights(folder_of(config, "unimax,seed=1")));
}

// References, their scores of all documents, and the curricula that read them.
TEST_F(SmallStudy, OfCurriculaReadsTheScoresOfItsReferences) {
  const std::string tiny =
      "{model: {dim: 8, layers: 1, heads: 1, kv_heads: 1, ffn_width: 8, first_dense_layers: 1}}";
  const StudyConfig references =
      study("study-references", {"set={train.steps: 4, eval.every: 0, eval.tokens_per_domain: 60}",
                                 "variants={weak: " + tiny + ", strong: {}}"});
  run(references);
  score(folder_of(references, "weak"), "weak");
  score(folder_of(references, "strong"), "strong");
  std::vector<std::string> few = {"axes={seed: [1]}",
                                  "set={train.steps: 6, eval.every: 3, eval.tokens_per_domain: 60}"};
  for (const char* order : {"ordered", "reversed", "mixed"}) {
    for (const char* rate : {"constant", "decayed"})  // documents have 8 to 57 tokens
      few.push_back(fmt::format("variants.{}-{}.curriculum.min_tokens=8", order, rate));
  }
  const StudyConfig config = study("study-curriculum", few);
  run(config);
  std::map<std::string, double> value;
  for (const RunResult& r : collect_results(config)) value[r.cell] = r.value;
  ASSERT_EQ(value.size(), 8u);
  EXPECT_NE(value.at("ordered-decayed"), value.at("shuffled-decayed"));
  EXPECT_NE(value.at("ordered-decayed"), value.at("reversed-decayed"));
  // Scores of another shard are refused before anything is written.
  const fs::path first = data::score_file(manifest_, "weak", manifest_.splits[0].shards[0].file),
                 second = data::score_file(manifest_, "weak", manifest_.splits[0].shards[1].file);
  fs::copy_file(second, first, fs::copy_options::overwrite_existing);
  const auto ordered = std::find_if(config.runs.begin(), config.runs.end(),
                                    [](const StudyRun& r) { return r.cell == "ordered-decayed"; });
  trainer::RunConfig one = configure(config, *ordered, {});
  one.out = (folder_ / "refused").string();
  comm::run_threads(1, [&](comm::World& world) {
    try {
      trainer::train(one, trainer::open_dataset(one), world, {.measure_peak = false});
      ADD_FAILURE() << "accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("these scores belong to shard"), std::string::npos) << e.what();
    }
  });
  EXPECT_FALSE(fs::exists(one.out));
}

TEST_F(SmallStudy, OfShufflesComparesTheTwoOrders) {
  const std::string few = "train.steps: 6, data.seq_len: 8, eval.every: 0, eval.tokens_per_domain: 60";
  const StudyConfig config =
      study("study-shuffle", {"axes={seed: [1]}", "set={" + few + "}", "also.axes={seed: [1]}",
                              "also.set={mixer: {name: gim, period: 2}, " + few + "}"});
  run(config);
  std::map<std::string, double> value;
  for (const RunResult& r : collect_results(config)) value[r.cell] = r.value;
  ASSERT_EQ(value.size(), 4u);
  EXPECT_NE(value.at("documents"), value.at("pieces"));
  EXPECT_NE(value.at("gim-documents"), value.at("gim-pieces"));
}

}  // namespace
}  // namespace cadre::study
