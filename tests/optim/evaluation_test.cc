// `cadre objective`'s evaluation against an implementation of the formulas that shares nothing with it, and its answers to
// bad input.
#include "optim/evaluation.h"

#include <gtest/gtest.h>

#include "tests/optim/objective_reference.h"

namespace cadre::optim {
namespace {

using nlohmann::json;
using testing::Answer;
using testing::reference;
using testing::ReferenceConfig;
using testing::Sequence;

// As Python writes it: NaN is a word.
std::string numbers(const std::vector<double>& values) {
  std::vector<std::string> texts;
  for (double v : values) texts.push_back(std::isnan(v) ? "NaN" : fmt::format("{}", v));
  return fmt::format("[{}]", fmt::join(texts, ", "));
}
std::string arrays(const Sequence& s) {
  return fmt::format(R"("mask": [{}], "logp": {}, "logp_old": {}, "logp_rollout": {}, "logp_ref": {})",
                     fmt::join(s.mask, ","), numbers(s.logp), numbers(s.old), numbers(s.rollout),
                     numbers(s.reference));
}
std::string batch_text(const std::vector<Sequence>& all) {
  std::vector<std::string> rows;
  for (const Sequence& s : all)
    rows.push_back(fmt::format(R"({{"group": {}, "reward": {}, {}}})", s.group, s.reward, arrays(s)));
  return fmt::format("{{\"sequences\": [{}]}}", fmt::join(rows, ",\n"));
}

json evaluate(const std::string& config, const std::string& batch) {
  return json::parse(
      evaluate_objective(base::parse_run_text(config, "run.yaml", {}), batch, "batch.json").dump());
}

void expect_near(double got, long double expected, const std::string& what) {
  const double e = double(expected);
  ASSERT_NEAR(got, e, 1e-9 * std::abs(e) + 1e-300) << what;
}

void expect_answer(const json& got, const Answer& expected, const std::string& what) {
  expect_near(got["loss"], expected.loss, what + ": loss");
  ASSERT_EQ(got["grad"].size(), expected.grad.size()) << what;
  for (size_t i = 0; i < expected.grad.size(); ++i) {
    ASSERT_EQ(got["grad"][i].size(), expected.grad[i].size()) << what;
    for (size_t t = 0; t < expected.grad[i].size(); ++t)
      expect_near(got["grad"][i][t], expected.grad[i][t], fmt::format("{}: grad[{}][{}]", what, i, t));
  }
}

// Random sequences of which some have a given log W, spread over their tokens.
std::vector<Sequence> stretched(double log_w) {
  std::vector<Sequence> all = testing::random_sequences(13, 0.3, 3);
  all[12].group = 100;                                 // a group of one
  for (size_t i = 6; i < 9; ++i) all[i].reward = 0.1;  // equal rewards
  for (size_t i = 0; i < all.size(); i += 2) {
    Sequence& s = all[i];
    for (size_t t = 0; t < s.mask.size(); ++t) {
      if (!s.mask[t]) continue;
      s.old[t] = s.rollout[t] = -30;
      s.logp[t] = -30 + log_w / double(testing::live_tokens(s));
      s.rollout[t] -= 0.1 * double(t);
    }
  }
  return all;
}

struct Case {
  std::string yaml;
  ReferenceConfig config;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const std::string& more, ReferenceConfig c) {
    all.push_back({fmt::format("name: {}\n{}", c.name, more), c});
  };
  const std::string gspo = "aggregation: seq-mean-token-mean\n";
  for (const char* advantage : {"mean", "mean_std", "rloo", "given"})
    add(fmt::format("advantage: {}", advantage), {.name = "vespo", .advantage = advantage});
  for (const char* name : {"vespo", "cispo", "topr", "cross_entropy"}) {
    add("", {.name = name});
    add("aggregation: seq-mean-token-sum\nbehaviour: rollout",
        {.name = name, .aggregation = "seq-mean-token-sum", .rollout = true});
    add("aggregation: seq-mean-token-sum-norm\nnorm_length: 7",
        {.name = name, .aggregation = "seq-mean-token-sum-norm", .norm_length = 7});
  }
  add("tis_cap: 1.05", {.name = "vespo", .tis = 1.05});
  add("positive: [1, 1.5]\nnegative: [4, 2.5]",
      {.name = "vespo", .c1_positive = 1, .c2_positive = 1.5, .c1_negative = 4, .c2_negative = 2.5});
  add("", {.name = "reinforce", .rollout = true, .tis = 2});
  add("level: sequence\ntis_cap: 5\nbehaviour: old", {.name = "reinforce", .tis = 5, .by_sequence = true});
  add("", {.name = "grpo", .aggregation = "seq-mean-token-mean"});
  add("dual_clip: 0\neps_low: 0.1\nkl_coef: 0.2",
      {.name = "grpo", .aggregation = "seq-mean-token-mean", .eps_low = 0.1, .dual_clip = 0, .kl = 0.2});
  add("tis_multiplier_cap: 1.2", {.name = "dapo", .eps_high = 0.28, .multiplier = 1.2});
  add("", {.name = "gspo", .aggregation = "seq-mean-token-mean", .eps_low = 3e-4, .eps_high = 4e-4});
  add("eps_high: 2\neps_low: 0.9\ntis_multiplier_cap: 1.2", {.name = "gspo",
                                                             .aggregation = "seq-mean-token-mean",
                                                             .eps_low = 0.9,
                                                             .eps_high = 2,
                                                             .multiplier = 1.2});
  add("", {.name = "sapo", .aggregation = "seq-mean-token-mean"});
  add("tau_positive: 0.5\ntau_negative: 2",
      {.name = "sapo", .aggregation = "seq-mean-token-mean", .tau_positive = 0.5, .tau_negative = 2});
  add("w_min: 0.5\nw_max: 1.5", {.name = "cispo", .w_min = 0.5, .w_max = 1.5});
  return all;
}

TEST(Evaluation, AgreesWithTheFormulasForRatiosFromExpMinus25ToExp25) {
  for (const double log_w : {-25.0, -19.0, -18.0, -3.0, -0.1, 0.0, 1e-4, 0.1, 3.0, 18.0, 25.0}) {
    const std::vector<Sequence> all = stretched(log_w);
    for (const Case& c : cases()) {
      SCOPED_TRACE(c.yaml);
      expect_answer(evaluate(c.yaml, batch_text(all)), reference(c.config, all),
                    fmt::format("log W {}", log_w));
    }
  }
}

TEST(Evaluation, ReportsAdvantagesAndRatiosOfEverySequence) {
  const std::vector<Sequence> all = stretched(2);
  const json got = evaluate("name: vespo", batch_text(all));
  const auto advantage = testing::reference_advantages("mean_std", all);
  for (size_t i = 0; i < all.size(); ++i) {
    expect_near(got["advantage"][i], advantage[i], fmt::format("advantage {}", i));
    long double log_w = 0;
    for (size_t t = 0; t < all[i].mask.size(); ++t)
      log_w += all[i].mask[t] ? (long double)(all[i].logp[t]) - all[i].old[t] : 0;
    ASSERT_NEAR(double(got["log_w"][i]), double(log_w), 1e-12);
  }
  EXPECT_EQ(got["advantage"][6], 0);  // equal rewards train nothing, not even by rounding
  EXPECT_EQ(got["metrics"]["sequences"], 12);
}

TEST(Evaluation, DpoAgreesWithTheFormulas) {
  std::vector<Sequence> all = testing::random_sequences(10, 2.0, 7);
  all[0].mask.assign(all[0].mask.size(), 0);  // with all[1], a pair in which nothing is trained
  std::vector<std::string> pairs;
  for (size_t i = 0; i < all.size(); i += 2)
    pairs.push_back(
        fmt::format(R"({{"chosen": {{{}}}, "rejected": {{{}}}}})", arrays(all[i]), arrays(all[i + 1])));
  const std::string text = fmt::format("{{\"pairs\": [{}]}}", fmt::join(pairs, ","));
  for (const auto& [loss, beta, e] : std::vector<std::tuple<std::string, double, double>>{
           {"sigmoid", 0.1, 0}, {"cdpo", 0.5, 0.2}, {"robust", 2, 0.3}, {"ipo", 0.3, 0}}) {
    json got = evaluate(fmt::format("name: dpo\nloss: {}\nbeta: {}\n", loss, beta) +
                            (e > 0 ? fmt::format("label_smoothing: {}", e) : ""),
                        text);
    json rows = json::array();
    for (size_t i = 0; i < got["grad"]["chosen"].size(); ++i) {
      rows.push_back(got["grad"]["chosen"][i]);
      rows.push_back(got["grad"]["rejected"][i]);
    }
    got["grad"] = rows;
    expect_answer(got, testing::reference_dpo(loss, beta, e, all), loss);
    EXPECT_EQ(got["metrics"]["pairs"], 4);
  }
}

TEST(Evaluation, SaysWhatIsWrongWithTheInput) {
  const auto one = [](const std::string& body) { return "{\"sequences\": [{\"reward\": 1, " + body + "}]}"; };
  const std::pair<std::string, std::string> table[] = {
      {one(R"("mask": [1, 1], "logp": [-1], "logp_old": [-1])"),
       "sequences[0].logp has 1 entries, the mask has 2"},
      {one(R"("mask": [1], "logp": [NaN], "logp_old": [-1])"), "sequences[0].logp[0]: found nan"},
      {one(R"("mask": [1], "logp": [-Infinity], "logp_old": [-1])"), "expected a log-probability"},
      {one(R"("mask": [0, 1], "logp": [NaN, 0.5], "logp_old": [1, -1])"), "sequences[0].logp[1]: found 0.5"},
      {one(R"("mask": [1], "logp": [-1])"), "logp_old"},
      {one(R"("mask": [1], "logp": [-1], "logp_old": ["a"])"), "expected a number"},
      {one(R"("mask": [2], "logp": [-1])"), "expected 0 or 1"},
      {one(R"("mask": [1], "logprob": [-1])"), "unknown key 'logprob'"},
      {R"({"sequences": [{"mask": [1], "logp": [-1]}]})", "reward is missing"},
      {R"({"pairs": []})", "\"sequences\""},
      {"{\"sequences\": [", "not JSON"}};
  for (const auto& [text, expected] : table) {
    try {
      evaluate("name: vespo", text);
      FAIL() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData) << text;
      const std::string message = error.what();
      EXPECT_NE(message.find(expected), std::string::npos) << message;
      EXPECT_NE(message.find("batch.json"), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
}

TEST(Evaluation, RefusesSettingsThatCountAMismatchTwice) {
  const std::pair<std::string, std::string> table[] = {
      {"name: vespo\ntis_cap: 2\nbehaviour: rollout", "twice"},
      {"name: vespo\ntis_multiplier_cap: 2", "twice"},
      {"name: grpo\ntis_multiplier_cap: 2\nbehaviour: rollout", "twice"},
      {"name: grpo\ndual_clip: 0.5", "more than 1"},
      {"name: vespo\npositive: [1]", "two"},
      {"name: vespo\naggregation: seq-mean-token-sum-norm", "norm_length"},
      {"name: cispo\nw_min: 3\nw_max: 2", "w_min"},
      {"name: dpo\nlabel_smoothing: 0.1", "cdpo"},
      {"name: dpo\nadvantage: mean", "unknown key"}};
  for (const auto& [yaml, expected] : table) {
    try {
      evaluate(yaml, R"({"sequences": []})");
      FAIL() << "accepted: " << yaml;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage) << yaml;
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace cadre::optim
