#include "trainer/rollout/async_feed.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "parallel/base/json_whole.h"

namespace cadre::trainer {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

AsyncFeed::AsyncFeed(const RolloutFeedConfig& config, const SamplerContext& context, data::DataFeed& prompts,
                     const data::Corpus& train, comm::Communicator& all, const ModelValues& values)
    : config_(config),
      context_(context),
      prompts_(prompts),
      train_(train),
      all_(all),
      values_(values),
      bell_(all),
      sampler_(context, config.rollout) {
  require_room(train, config.shape.seq_len);
  weights_.assign(size_t(train.num_domains()), std::numeric_limits<double>::quiet_NaN());
}

data::LoadedBatch AsyncFeed::next(const Progress& progress) {
  const Clock::time_point start = Clock::now();
  Orders orders;
  orders.version = uint32_t(progress.step);
  orders.reset = !begun_;
  orders.weights = !begun_ || progress.step % uint64_t(config_.rollout.sync_every) == 0;
  if (orders.weights) orders.state = context_.model->save_state();
  orders.groups = std::exchange(again_, {});
  hand_out(progress, orders);
  begun_ = true;
  trade(std::move(orders));
  while (!batch_is_there()) {
    Orders more;
    more.version = uint32_t(progress.step);
    more.starving = true;
    trade(std::move(more));
  }
  std::vector<Rollout> batch;
  double same = 0;
  for (int64_t i = 0; i < config_.groups_per_batch(); ++i, ++next_batch_) {
    auto& group = received_.at(next_batch_);
    std::sort(group.begin(), group.end(),
              [](const Rollout& a, const Rollout& b) { return a.sample < b.sample; });
    set_advantages(group, config_.rollout, config_.inputs.advantage_kind);
    same += equal_rewards(group, config_.rollout) ? 1 : 0;
    for (Rollout& r : group) batch.push_back(std::move(r));
    received_.erase(next_batch_);
  }
  data::LoadedBatch out = make_rollout_batch(batch, config_.shape);
  out.weights = weights_;
  out.metrics = batch_metrics(batch, train_, progress.step);
  out.metrics["rollout_wait_ms"] = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  out.metrics["equal_groups_fraction"] = same / double(config_.groups_per_batch());
  first_ = out.metrics["staleness_mean"] == 0.0;
  return out;
}

void AsyncFeed::hand_out(const Progress& progress, Orders& orders) {
  const uint64_t per_batch = uint64_t(config_.groups_per_batch());
  while (next_group_ < next_batch_ + (1 + uint64_t(config_.rollout.staleness)) * per_batch) {
    const data::LoadedBatch plan = prompts_.next(progress);
    weights_ = plan.weights;
    for (const int64_t document : plan.documents) {
      for (Rollout& r : make_group(train_, document, next_group_, config_.rollout.group))
        orders.groups.push_back(std::move(r));
      ++next_group_;
    }
  }
}

std::vector<Rollout> AsyncFeed::trade(Orders orders) {
  bell_.wait();
  const auto texts =
      all_.gather_texts(context_.mesh->data().rank() == 0 ? orders.text() : "", "finished rollouts");
  const size_t trainers = size_t(context_.mesh->data().size());
  for (size_t rank = trainers; !orders.reset && rank < texts.size(); ++rank) {
    for (Rollout& r : unpack(texts[rank])) received_[r.group].push_back(std::move(r));
  }
  std::vector<Rollout> under_way;
  if (orders.collect) {
    const auto parts = all_.gather_texts("", "rollouts under way");
    for (size_t rank = trainers; rank < parts.size(); ++rank) {
      for (Rollout& r : unpack(parts[rank])) under_way.push_back(std::move(r));
    }
  }
  if (orders.weights) pass_values(all_, values_, false);
  return under_way;
}

bool AsyncFeed::batch_is_there() const {
  for (uint64_t g = next_batch_; g < next_batch_ + uint64_t(config_.groups_per_batch()); ++g) {
    const auto it = received_.find(g);
    if (it == received_.end() || int64_t(it->second.size()) < config_.rollout.group) return false;
  }
  return true;
}

void AsyncFeed::check_first_update(double log_w_max_abs) {
  if (first_ && log_w_max_abs > config_.rollout.max_first_log_w)
    refuse_first_update(log_w_max_abs, config_.rollout.max_first_log_w);
}

// A line of JSON, then what is finished, then what is under way.
std::string AsyncFeed::save() {
  std::vector<Rollout> all = again_;
  if (begun_) {
    Orders orders;
    orders.collect = true;
    for (Rollout& r : trade(std::move(orders))) all.push_back(std::move(r));
  }
  for (const auto& [group, samples] : received_) all.insert(all.end(), samples.begin(), samples.end());
  return json({{"next_group", next_group_}, {"next_batch", next_batch_}}).dump() + "\n" + pack(all);
}

void AsyncFeed::load(const std::string& bytes) try {
  const size_t line = bytes.find('\n');
  require(line != std::string::npos, ExitCode::kCheckpoint, "the checkpoint's rollouts have no head");
  const json head = json::parse(bytes.substr(0, line));
  next_group_ = base::whole<uint64_t>(head.at("next_group"), ExitCode::kCheckpoint);
  next_batch_ = base::whole<uint64_t>(head.at("next_batch"), ExitCode::kCheckpoint);
  received_.clear();
  again_.clear();
  for (Rollout& r : unpack(bytes.substr(line + 1))) {
    auto& to = r.finish == Finish::kNone ? again_ : received_[r.group];
    to.push_back(std::move(r));
  }
  begun_ = false;
} catch (const json::exception& error) {
  fail(ExitCode::kCheckpoint, "the checkpoint's rollouts cannot be read: {}", error.what());
}

void AsyncFeed::close() {
  Orders orders;
  orders.stop = true;
  trade(std::move(orders));
}

}  // namespace cadre::trainer
