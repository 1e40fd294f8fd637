#include "trainer/rollout/rollout_feed.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/planner/permutation.h"
#include "parallel/base/json_whole.h"
#include "parallel/base/rng.h"

namespace cadre::trainer {

using nlohmann::json;

RolloutFeed::RolloutFeed(const RolloutFeedConfig& config, const SamplerContext& context,
                         data::DataFeed& prompts, const data::Corpus& train)
    : config_(config),
      context_(context),
      prompts_(prompts),
      train_(train),
      sampler_(context, config.rollout) {
  require_room(train, config.shape.seq_len);
  weights_.assign(size_t(train.num_domains()), std::numeric_limits<double>::quiet_NaN());
}

data::LoadedBatch RolloutFeed::next(const Progress& progress) {
  first_ = false;
  if (ready_.empty()) sample_round(progress);
  std::vector<Rollout> batch = std::move(ready_.front());
  ready_.pop_front();
  data::LoadedBatch out = make_rollout_batch(batch, config_.shape);
  out.weights = weights_;
  out.metrics = batch_metrics(batch, train_, progress.step);
  if (first_) out.metrics.update(round_metrics_);
  // Groups left over from the round before are older.
  first_ = first_ && out.metrics["staleness_mean"] == 0.0;
  return out;
}

void RolloutFeed::sample_round(const Progress& progress) {
  const size_t wanted = size_t(config_.prompts_per_round());
  Groups kept = std::exchange(leftovers_, {}), equal;
  double sampled = 0, same = 0;
  SampleStats stats;  // of all rounds
  for (int64_t round = 0; round < config_.rollout.rounds && kept.size() < wanted; ++round) {
    for (auto& group : sample_groups(progress)) {
      const bool is_equal = equal_rewards(group, config_.rollout);
      sampled += 1;
      same += is_equal ? 1 : 0;
      (is_equal && config_.rollout.rounds > 1 ? equal : kept).push_back(std::move(group));
    }
    stats += sampler_.stats();
  }
  // Where too few groups differ, equal ones fill up: they train nothing, and batches keep their size.
  while (kept.size() < wanted) {
    kept.push_back(std::move(equal.back()));
    equal.pop_back();
  }
  leftovers_.assign(std::make_move_iterator(kept.begin() + long(wanted)),
                    std::make_move_iterator(kept.end()));
  kept.resize(wanted);
  round_metrics_ = {
      {"rollout_tokens_per_s", stats.seconds > 0 ? double(stats.new_tokens) / stats.seconds : 0},
      {"rollout_ms", 1e3 * stats.seconds},
      {"reward_ms", 1e3 * stats.reward_seconds},
      {"equal_groups_fraction", sampled > 0 ? same / sampled : 0}};
  const data::Permutation order(
      wanted, base::mix(base::mix(config_.seed, base::hash_name("mini-batches")), next_group_));
  const size_t per_batch = size_t(config_.groups_per_batch());
  for (size_t i = 0; i < wanted; ++i) {
    if (i % per_batch == 0) ready_.emplace_back();
    for (Rollout& r : kept[size_t(order(i))]) ready_.back().push_back(std::move(r));
  }
  round_first_log_w_ = 0;
  first_ = true;
  if (!config_.inputs.old) return;
  for (std::vector<Rollout>& batch : ready_) {
    score_old(batch);
    round_first_log_w_ = std::max(round_first_log_w_, largest_mismatch(batch, uint32_t(progress.step)));
  }
  round_metrics_["log_w_first_max_abs"] = round_first_log_w_;
  if (round_first_log_w_ > config_.rollout.max_first_log_w)
    refuse_first_update(round_first_log_w_, config_.rollout.max_first_log_w);
}

RolloutFeed::Groups RolloutFeed::sample_groups(const Progress& progress) {
  Groups groups;
  const data::LoadedBatch plan = prompts_.next(progress);
  weights_ = plan.weights;
  for (const int64_t document : plan.documents)
    groups.push_back(make_group(train_, document, next_group_++, config_.rollout.group));
  const std::vector<Rollout> all =
      sampler_.sample(std::move(groups), uint32_t(progress.step), config_.rollout.shape, train_);
  groups.clear();
  for (const Rollout& r : all) {
    if (groups.empty() || groups.back().front().group != r.group) groups.emplace_back();
    groups.back().push_back(r);
  }
  for (auto& group : groups) set_advantages(group, config_.rollout, config_.inputs.advantage_kind);
  return groups;
}

// The trainer's log-probabilities before the first update, from a forward pass over the very micro-batches that will be
// trained, so that W is 1 where nothing has changed.
void RolloutFeed::score_old(std::vector<Rollout>& batch) {
  const data::LoadedBatch loaded = make_rollout_batch(batch, config_.shape);
  std::vector<std::vector<float>> logp;
  for (const Batch& micro : loaded.micro) {
    const auto values = context_.model->forward(micro, false);
    logp.emplace_back(values.begin(), values.end());
  }
  std::vector<Rollout> own;  // only what the others need to know
  for_each_response(batch, config_.shape, [&](size_t micro, int64_t at, size_t index) {
    Rollout r;
    r.sample = int32_t(index);
    const auto first = logp[micro].begin() + at;
    r.logp_old.assign(first, first + batch[index].response_length());
    own.push_back(std::move(r));
  });
  for (const std::string& part : context_.mesh->data().gather_texts(pack(own), "old log-probabilities")) {
    for (Rollout& r : unpack(part)) batch[size_t(r.sample)].logp_old = std::move(r.logp_old);
  }
}

// Largest |log W| of the trainer against the engine over sequences that were sampled with the present weights.
double RolloutFeed::largest_mismatch(const std::vector<Rollout>& batch, uint32_t version) const {
  double largest = 0;
  for (const Rollout& r : batch) {
    if (r.version.front() != version || r.masked) continue;
    double sum = 0;
    for (size_t t = 0; t < r.logp.size(); ++t) sum += double(r.logp_old[t]) - double(r.logp[t]);
    largest = std::max(largest, std::abs(sum));
  }
  return largest;
}

void RolloutFeed::check_first_update(double log_w_max_abs) {
  if (first_ && log_w_max_abs > config_.rollout.max_first_log_w)
    refuse_first_update(log_w_max_abs, config_.rollout.max_first_log_w);
}

// A line of JSON with the sizes, then the rollouts.
std::string RolloutFeed::save() {
  std::vector<Rollout> all;
  json sizes = json::array(), leftovers = json::array();
  for (const auto& batch : ready_) {
    sizes.push_back(batch.size());
    all.insert(all.end(), batch.begin(), batch.end());
  }
  for (const auto& group : leftovers_) {
    leftovers.push_back(group.size());
    all.insert(all.end(), group.begin(), group.end());
  }
  const json head = {{"next_group", next_group_}, {"mini_batches", sizes}, {"leftovers", leftovers}};
  return head.dump() + "\n" + pack(all);
}

void RolloutFeed::load(const std::string& bytes) try {
  const size_t line = bytes.find('\n');
  require(line != std::string::npos, ExitCode::kCheckpoint, "the checkpoint's rollouts have no head");
  const json head = json::parse(bytes.substr(0, line));
  std::vector<Rollout> all = unpack(bytes.substr(line + 1));
  auto next = all.begin();
  const auto take = [&](const json& size) {
    const long count = base::whole<long>(size, ExitCode::kCheckpoint);
    require(count >= 0 && count <= all.end() - next, ExitCode::kCheckpoint,
            "the checkpoint's rollouts are fewer than their head says");
    std::vector<Rollout> part(std::make_move_iterator(next), std::make_move_iterator(next + count));
    next += count;
    return part;
  };
  ready_.clear();
  leftovers_.clear();
  for (const json& size : head.at("mini_batches")) ready_.push_back(take(size));
  for (const json& size : head.at("leftovers")) leftovers_.push_back(take(size));
  next_group_ = base::whole<uint64_t>(head.at("next_group"), ExitCode::kCheckpoint);
} catch (const json::exception& error) {
  fail(ExitCode::kCheckpoint, "the checkpoint's rollouts cannot be read: {}", error.what());
}

}  // namespace cadre::trainer
