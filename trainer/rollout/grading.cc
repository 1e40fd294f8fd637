#include "trainer/rollout/grading.h"

#include <algorithm>
#include <map>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"

namespace cadre::trainer {
namespace {

using nlohmann::json;

uint64_t evaluation_group(int64_t prompt) {  // never the number of a group of training
  return base::mix(base::hash_name("evaluation"), uint64_t(prompt));
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / double(values.size());
}

template <class Value>
double mean_over(const std::vector<Rollout>& rollouts, const Value& value) {
  double sum = 0;
  for (const Rollout& r : rollouts) sum += value(r);
  return rollouts.empty() ? 0 : sum / double(rollouts.size());
}

}  // namespace

double shaped_reward(const Rollout& r, const RolloutConfig& c) {
  const int64_t over = r.response_length() - (c.max_new_tokens - c.overlong_buffer);
  if (c.overlong_buffer == 0 || over <= 0) return r.reward;
  return r.reward - c.overlong_penalty * std::min(1.0, double(over) / double(c.overlong_buffer));
}

bool equal_rewards(const std::vector<Rollout>& group, const RolloutConfig& config) {
  const double first = shaped_reward(group.front(), config);
  return std::all_of(group.begin(), group.end(),
                     [&](const Rollout& r) { return shaped_reward(r, config) == first; });
}

void set_advantages(std::vector<Rollout>& group, const RolloutConfig& config, optim::AdvantageKind kind) {
  std::vector<double> rewards;
  for (const Rollout& r : group) rewards.push_back(shaped_reward(r, config));
  const std::vector<int64_t> same(group.size(), 0);
  const std::vector<double> advantages = optim::compute_advantages(kind, rewards, same);
  for (size_t i = 0; i < group.size(); ++i) {
    group[i].advantage = advantages[i];
    group[i].masked = config.overlong_mask && group[i].finish == Finish::kLength;
  }
}

// The mean of -log p over drawn tokens is an unbiased estimate of the entropy, as all of the distribution is drawn from.
json batch_metrics(const std::vector<Rollout>& batch, const data::Corpus& prompts, uint64_t step) {
  json out = json::object();
  std::map<std::string, std::vector<double>> by_domain;
  std::map<int32_t, std::vector<double>> by_level;
  std::map<uint64_t, double> ages;
  double tokens = 0, age_sum = 0, surprise = 0, failed = 0;
  for (const Rollout& r : batch) {
    by_domain[prompts.domain_name(r.domain)].push_back(r.reward);
    if (r.level > 0) by_level[r.level].push_back(r.reward);
    failed += r.failed ? 1 : 0;
    for (size_t t = 0; t < r.logp.size(); ++t) {
      const uint64_t age = step - r.version[t];
      ages[age] += 1;
      age_sum += double(age);
      surprise -= double(r.logp[t]);
      tokens += 1;
    }
  }
  out["reward_mean"] = mean_over(batch, [](const Rollout& r) { return r.reward; });
  for (const auto& [domain, rewards] : by_domain) out["reward"][domain] = mean_of(rewards);
  for (const auto& [level, rewards] : by_level) out["level_reward"][std::to_string(level)] = mean_of(rewards);
  // Begun with one version of the weights, ended with another: in asynchronous runs.
  out["partial_fraction"] =
      mean_over(batch, [](const Rollout& r) { return r.version.front() != r.version.back() ? 1.0 : 0.0; });
  out["truncated_fraction"] =
      mean_over(batch, [](const Rollout& r) { return r.finish == Finish::kLength ? 1.0 : 0.0; });
  out["reward_failures"] = failed;
  out["entropy"] = surprise / tokens;
  out["staleness_mean"] = age_sum / tokens;
  for (const auto& [age, count] : ages) out["staleness"][std::to_string(age)] = count / tokens;
  return out;
}

void refuse_first_update(double log_w, double bound) {
  fail(ExitCode::kNumeric,
       "the first update after sampling has a sequence with |log W| = {:.3g}, rollout.max_first_log_w is {}: "
       "with equal "
       "weights W is 1 but for rounding, so sampling and training compute different probabilities. Look at "
       "precision "
       "and at routing that flips (rollout.routing_replay: true), or raise the bound if such noise is to be "
       "trained on",
       log_w, bound);
}

std::vector<RewardScore> evaluate_rewards(Sampler& sampler, const data::Corpus& valid, uint64_t step) {
  std::vector<std::vector<Rollout>> groups;
  for (int64_t d = 0; d < valid.num_documents(); ++d)
    groups.push_back(make_group(valid, d, evaluation_group(d), 1));
  std::vector<RewardScore> scores;
  for (int k = 0; k < valid.num_domains(); ++k) scores.push_back({valid.domain_name(k)});
  for (const Rollout& r : sampler.sample(std::move(groups), uint32_t(step), {.temperature = 0}, valid)) {
    RewardScore& score = scores[size_t(r.domain)];
    ++score.prompts;
    score.reward += r.reward;
    score.length += double(r.response_length());
  }
  for (RewardScore& s : scores) {
    s.reward /= double(std::max<int64_t>(1, s.prompts));
    s.length /= double(std::max<int64_t>(1, s.prompts));
  }
  return scores;
}

}  // namespace cadre::trainer
