// Audits: what they measure is what steps and runs do, and they find estimators that are wrong.
#include "trainer/audit/audit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>
#include <thread>

#include "parallel/base/files.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/audit/derived_corpus.h"
#include "trainer/run/stop.h"

namespace cadre::audit {
namespace {

using trainer::testing::TempFolder;

TEST(DerivedCorpus, PassagesAreTheSourcesTokens) {
  const auto text = trainer::testing::tiny_corpus(1, 12);
  const auto cut = make_derived_corpus(*text, domain_names(*text), passages(*text, 16));
  EXPECT_GT(cut->num_documents(), text->num_documents());
  const std::vector<Part> parts = passages(*text, 16);
  for (int64_t d = 0; d < cut->num_documents(); ++d) {
    const Part& part = parts[size_t(d)];
    EXPECT_EQ(cut->document(d).domain, text->document(part.document).domain);
    std::vector<int32_t> own(size_t(part.length)), source(own.size());
    cut->read(d, 0, own);
    text->read(part.document, part.begin, source);
    EXPECT_EQ(own, source);
  }
}

TEST(DerivedCorpus, ShufflingKeepsTheTokensAndDoesNotDependOnTheReader) {
  const auto text = trainer::testing::tiny_corpus(1, 12);
  std::vector<Part> parts = whole_documents(*text);
  for (Part& part : parts) part.shuffled = true;
  const auto junk = make_derived_corpus(*text, domain_names(*text), parts);
  int moved = 0;
  for (int64_t d = 0; d < junk->num_documents(); ++d) {
    std::vector<int32_t> all(size_t(parts[size_t(d)].length)), source(all.size()), piece(3);
    junk->read(d, 0, all);
    text->read(d, 0, source);
    junk->read(d, 4, piece);
    EXPECT_EQ(piece, (std::vector<int32_t>{all[4], all[5], all[6]}));
    EXPECT_EQ(all[0], source[0]);
    moved += all != source;
    std::sort(all.begin(), all.end());
    std::sort(source.begin(), source.end());
    EXPECT_EQ(all, source);
  }
  EXPECT_EQ(moved, 12);
}

TEST(Lds, FindsTheEstimatorThatMadeTheOutcomes) {
  constexpr size_t kUnits = 20, kSubsets = 40;
  const base::Philox random(2);
  std::vector<std::vector<size_t>> members;
  for (uint64_t s = 0; s < kSubsets; ++s) {
    members.push_back(draw_half(kUnits, s));
    EXPECT_EQ(members.back().size(), kUnits / 2);
    EXPECT_EQ(std::adjacent_find(members.back().begin(), members.back().end()), members.back().end());
  }
  EXPECT_NE(members[0], members[1]);
  UnitInfluence influence;
  for (const char* method : {"right", "wrong"}) influence[method].resize(2);
  std::vector<std::vector<std::vector<double>>> outcomes(2, std::vector<std::vector<double>>(kSubsets));
  for (uint64_t q = 0; q < 2; ++q) {
    for (uint64_t u = 0; u < kUnits; ++u) {
      influence["right"][q].push_back(random.normal(u, q));
      influence["wrong"][q].push_back(random.normal(u, 10 + q));
    }
    for (uint64_t s = 0; s < kSubsets; ++s) {
      double sum = 0;
      for (const size_t u : members[s]) sum += influence["right"][q][u];
      for (uint64_t seed = 0; seed < 3; ++seed)
        outcomes[q][s].push_back(2 * sum + 0.3 * random.normal(s, 100 + 10 * q + seed));
    }
  }
  const auto scores = score_lds(influence, members, outcomes);
  ASSERT_EQ(scores.size(), 2u);
  EXPECT_EQ(scores[0].method, "right");
  EXPECT_GT(scores[0].mean, 0.97);
  EXPECT_LT(std::abs(scores[1].mean), 0.4);
  EXPECT_LE(scores[0].low, scores[0].mean);
}

TEST(Controls, AreJudgedByWhatIsKnownBeforehand) {
  const ControlsConfig config;
  const auto judged = [&](const char* control, const char* domain, std::map<std::string, double> prior,
                          std::map<std::string, double> weights) {
    ControlRun run{.control = control,
                   .domain = domain,
                   .seed = 1,
                   .passed = false,
                   .prior = std::move(prior),
                   .weights = std::move(weights),
                   .measure = 0,
                   .deviation = 0};
    judge(config, run);
    return run.passed;
  };
  EXPECT_TRUE(judged("permuted", "all", {{"a", 0.5}, {"b", 0.5}}, {{"a", 0.53}, {"b", 0.47}}));
  EXPECT_FALSE(judged("permuted", "all", {{"a", 0.5}, {"b", 0.5}}, {{"a", 0.56}, {"b", 0.44}}));
  EXPECT_TRUE(judged("duplicated", "a", {{"a", 0.3}, {"a (copy)", 0.3}, {"b", 0.4}},
                     {{"a", 0.2}, {"a (copy)", 0.21}, {"b", 0.59}}));
  EXPECT_FALSE(judged("duplicated", "a", {{"a", 0.3}, {"a (copy)", 0.3}, {"b", 0.4}},
                      {{"a", 0.2}, {"a (copy)", 0.3}, {"b", 0.5}}));
  EXPECT_TRUE(judged("junk", "junk", {{"a", 0.5}, {"junk", 0.5}}, {{"a", 0.8}, {"junk", 0.2}}));
  EXPECT_FALSE(judged("junk", "junk", {{"a", 0.5}, {"junk", 0.5}}, {{"a", 0.7}, {"junk", 0.3}}));
  EXPECT_TRUE(judged("target", "a", {{"a", 0.2}, {"b", 0.8}}, {{"a", 0.3}, {"b", 0.7}}));
  EXPECT_FALSE(judged("target", "a", {{"a", 0.2}, {"b", 0.8}}, {{"a", 0.1}, {"b", 0.9}}));
}

// Values drawn with the errors they are given deviate by 1 of them, whatever the errors are; shared documents show.
TEST(Controls, DeviationIsOneWhereErrorsAreHonest) {
  const base::Philox random(5);
  std::vector<std::pair<std::vector<double>, std::vector<double>>> honest, small;
  for (uint64_t p = 0; p < 400; ++p) {
    auto& [value, error] = honest.emplace_back();
    for (uint64_t k = 0; k < 5; ++k) {
      error.push_back(0.1 + double(k));
      value.push_back(3 + error.back() * random.normal(p, k));
    }
    small.push_back(honest.back());
    for (double& e : small.back().second) e /= 3;
  }
  EXPECT_NEAR(relative_deviation(honest), 1, 0.08);
  EXPECT_NEAR(relative_deviation(small), 3, 0.24);
  EXPECT_TRUE(std::isnan(relative_deviation({})));
}

// kTinyRun without experts.
std::string dense_run() {
  std::string text = trainer::testing::kTinyRun;
  const size_t at = text.find("moe:");
  return text.erase(at, text.find('\n', at) - at);
}

class AuditTest : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(folder_.path() / "moe.yaml") << trainer::testing::kTinyRun;
    std::ofstream(folder_.path() / "dense.yaml") << dense_run();
  }
  AuditConfig read(const std::string& base, const std::string& rest) const {
    const std::string file = fmt::format(
        "audit:\n  base: {}\n  out: {}\n  set: {{influence.tokens_per_domain: 200, eval.tokens_per_domain: "
        "60, train.clip_norm: 0.1}}\n{}",
        base, (folder_.path() / "out").string(), rest);
    base::Section root = base::parse_run_text(file, (folder_.path() / "audit.yaml").string(), {});
    const AuditConfig config = read_audit(root.section("audit"));
    root.finish();
    return config;
  }
  ExitCode run(const AuditConfig& config) {
    static const trainer::Dataset dataset = [] {
      trainer::Dataset set = trainer::testing::tiny_dataset();
      set.train = trainer::testing::tiny_corpus(1, 600);
      set.valid = trainer::testing::tiny_corpus(2, 90);  // targets and evaluation are apart
      return set;
    }();
    ExitCode code = ExitCode::kOk;
    comm::run_threads(1, [&](comm::World& world) { code = run_audit(config, world, &dataset); });
    return code;
  }
  nlohmann::json results() const {
    return nlohmann::json::parse(base::read_file(folder_.path() / "out/audit.json", ExitCode::kData));
  }
  TempFolder folder_;
};

// A small step does what its first order says: rank and size. The forms that leave something out do worse.
// Groups are small beside the background: how the clip coefficient changes is taken to first order in their share.
TEST_F(AuditTest, SmallStepsDoWhatInfluenceSaid) {
  for (const char* base : {"dense.yaml", "moe.yaml"}) {
    const AuditConfig config =
        read(base, "  oracle: {sizes: [1], groups: 40, background: 240, passage: 0, lr: [0.02]}\n");
    ASSERT_EQ(run(config), ExitCode::kOk);
    const nlohmann::json oracle = results().at("oracle");
    EXPECT_LT(oracle.at("identity_error").get<double>(), 1e-5);
    EXPECT_LT(oracle.at("clip_scale").get<double>(), 1);  // the derivative of clipping matters here
    const nlohmann::json &real = oracle.at("cells")[0], &frozen = oracle.at("cells")[1];
    ASSERT_EQ(frozen.at("v"), "frozen");
    EXPECT_GT(frozen.at("spearman").get<double>(), 0.98) << base;
    EXPECT_NEAR(frozen.at("slope").get<double>(), 1, 0.05) << base;
    EXPECT_LT(frozen.at("spearman_without_clip_term").get<double>(), frozen.at("spearman").get<double>())
        << base;
    EXPECT_GT(real.at("spearman").get<double>(), 0.9) << base;
    std::filesystem::remove_all(folder_.path() / "out");
  }
}

// configs/study-influence.yaml in small: every part of it.
TEST_F(AuditTest, GoesOnWhereItWasStoppedAndRefusesOtherSettings) {
  const auto small = [&](const std::string& parts) {
    std::vector<std::string> overrides = {
        "base=" + (folder_.path() / "dense.yaml").string(),
        "out=" + (folder_.path() / "out").string(),
        "set={influence.tokens_per_domain: 200, eval.tokens_per_domain: 60, train.clip_norm: 0.1}",
        "oracle={sizes: [1, 4], groups: 4, background: 4, passage: 12, lr: [1]}",
        "controls.seeds=[1]",
        "controls.mixer.period=2",
        "controls.set={train.steps: 6, influence.micro_batches: 4}",
        "mixes.count=3",
        "mixes.domain_passages=4",
        "lds={blocks: 2, subsets: 3, seeds: [1, 2], leave_out: 3, unit_passages: 4, ekfac_passages: 6, set: "
        "{train.steps: 3}}"};
    if (!parts.empty()) overrides.push_back("parts=" + parts);
    for (std::string& o : overrides) o.insert(0, "audit.");
    base::Section root = base::parse_run_file(CADRE_CONFIG_FOLDER "/study-influence.yaml", overrides);
    return read_audit(root.section("audit"));
  };
  const AuditConfig config = small("");
  // Processes that share the parts among them leave what one that makes all gathers.
  ASSERT_EQ(run(small("[lds, controls]")), ExitCode::kOk);
  EXPECT_EQ(results().size(), 2u);
  trainer::request_stop(true);
  EXPECT_EQ(run(config), ExitCode::kStopped);
  EXPECT_EQ(results().size(), 2u);  // still there
  trainer::request_stop(false);
  ASSERT_EQ(run(config), ExitCode::kOk);
  const nlohmann::json whole = results();
  ASSERT_EQ(run(config), ExitCode::kOk);  // nothing is measured again
  EXPECT_EQ(results(), whole);
  EXPECT_EQ(whole.at("oracle").at("cells").size(), 4u);
  EXPECT_EQ(whole.at("controls").size(), 4u);
  EXPECT_EQ(whole.at("mixes").at("predicted").size(), 3u);
  EXPECT_EQ(whole.at("lds").at("lds").size(), 3u);  // ekfac, gradient, optimizer
  EXPECT_EQ(whole.at("lds").at("leave_one_out").size(), 3u);
  for (const char* file : {"report.html", "sections.html", "audit.md", "controls.svg", "mixes.svg", "lds.svg",
                           "oracle-4-lr1-real.svg"})
    EXPECT_TRUE(std::filesystem::exists(folder_.path() / "out" / file)) << file;
  const AuditConfig other =
      read("dense.yaml", "  oracle: {sizes: [1, 4], groups: 4, background: 4, passage: 12, lr: [2]}\n");
  EXPECT_THROW(run(other), Error);
  const auto at_once = [&](const std::vector<std::string>& parts) {
    std::filesystem::remove_all(folder_.path() / "out");
    std::vector<std::thread> processes;
    for (const std::string& some : parts)
      processes.emplace_back([&] { EXPECT_EQ(run(small(some)), ExitCode::kOk); });
    for (std::thread& t : processes) t.join();
    EXPECT_EQ(results(), whole);
  };
  // Of processes with different parts each, at once or one after the other, the last report has all of them.
  at_once({"[lds, controls]", "[oracle, mixes]"});
  for (const char* last : {"[lds, controls]", "[oracle, mixes]", "[controls]"}) {
    std::filesystem::remove(folder_.path() / "out/audit.json");
    ASSERT_EQ(run(small(last)), ExitCode::kOk);
    EXPECT_EQ(results(), whole);
  }
  // Another part's journal of other settings does not take this one's report away.
  std::ofstream(folder_.path() / "out/oracle.jsonl") << "[\"settings\",\"others\"]\n";
  ASSERT_EQ(run(small("[mixes]")), ExitCode::kOk);
  EXPECT_EQ(results().size(), 3u);
  // Processes that share all of it measure everything once, and the same.
  at_once({"", ""});
  std::set<std::string> keys;
  size_t lines = 0;
  for (const char* part : {"oracle", "controls", "mixes", "lds"}) {
    std::ifstream file(folder_.path() / "out" / (std::string(part) + ".jsonl"));
    for (std::string line; std::getline(file, line); ++lines)
      keys.insert(part + nlohmann::json::parse(line).at(0).get<std::string>());
  }
  EXPECT_EQ(lines, 4u + (1 + 2 * 4) + 4 + (1 + 3) + (1 + (3 + 3) * 2));
  EXPECT_EQ(keys.size(), lines);
}

TEST_F(AuditTest, NamesTheKeyThatIsWrong) {
  const auto error = [&](const std::string& rest) {
    try {
      read("dense.yaml", rest);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(error("  orcle: {}\n").find("did you mean 'oracle'"), std::string::npos);
  EXPECT_NE(error("  oracle: {group: 3}\n").find("did you mean 'groups'"), std::string::npos);
  EXPECT_NE(error("  lds: {seeds: [1]}\n").find("at least two"), std::string::npos);
  EXPECT_NE(error("  parts: [mixes]\n  oracle: {}\n").find("none of this file's: oracle"), std::string::npos);
  EXPECT_NE(error("  at: 0\n").find("above 0"), std::string::npos);
}

}  // namespace
}  // namespace cadre::audit
