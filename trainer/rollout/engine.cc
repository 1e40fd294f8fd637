#include "trainer/rollout/engine.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"
#include "trainer/rollout/config.h"

namespace cadre::trainer {
namespace {

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Engine::Engine(Network<float>& model, comm::Communicator& expert, const EngineConfig& config)
    : model_(model),
      expert_(expert),
      config_(config),
      ahead_(config.run_ahead.value_or(model.works_alone()) && expert.size() == 1 && !config.routing),
      draws_(base::mix(config.seed, base::hash_name("rollout"))),
      pool_(num_cache_pages(config.max_sequences, config.page_size, config.cache_tokens, config.max_length)) {
  config_.max_sequences = std::min(config_.max_sequences, config_.max_rows);
  require(pool_.size() * config_.page_size >= config_.max_length, ExitCode::kUsage,
          "a cache of {} tokens does not hold a sequence of {}; raise rollout.cache_tokens",
          pool_.size() * config_.page_size, config_.max_length);
  cache_ = model_.make_pages(
      {.pages = pool_.size(), .page_size = config_.page_size, .max_length = config_.max_length});
}

int64_t Engine::longest(const Active& a) const {
  return std::min(config_.max_length, a.samples.front().prompt_length + config_.max_new_tokens);
}

int64_t Engine::pages_to_come(const Active& a) const {
  const int64_t samples = int64_t(a.samples.size()), shared = a.length() / config_.page_size;
  return samples * divide_up(longest(a), config_.page_size) - (samples - 1) * shared -
         int64_t(a.pages.size());
}

int64_t Engine::waiting_samples() const {
  int64_t count = 0;
  for (const Active& a : waiting_) count += int64_t(a.samples.size());
  return count;
}

void Engine::add(std::vector<Rollout> samples) {
  Active active{.samples = std::move(samples), .pages = {}};
  const Rollout& first = active.samples.front();
  require(active.length() > 0 && active.length() < longest(active), ExitCode::kData,
          "a prompt of {} tokens leaves no room for a response: sequences have at most {} (data.seq_len)",
          first.prompt_length, config_.max_length);
  // Rather one prompt fed twice than one that never fits.
  const bool fits =
      int64_t(active.samples.size()) <= config_.max_sequences && pages_to_come(active) <= pool_.size();
  if (fits) return waiting_.push_back(std::move(active));
  for (Rollout& r : active.samples) {
    std::vector<Rollout> one;
    one.push_back(std::move(r));
    waiting_.push_back({.samples = std::move(one), .pages = {}});
  }
}

void Engine::admit() {
  int64_t reserved = 0;
  for (const Active& a : active_) reserved += pages_to_come(a);
  while (!waiting_.empty()) {
    Active& next = waiting_.front();
    const int64_t samples = int64_t(next.samples.size()), pages = pages_to_come(next);
    if (running_ + samples > config_.max_sequences || reserved + pages > pool_.free()) return;
    reserved += pages;
    running_ += samples;
    active_.push_back(std::move(next));
    waiting_.pop_front();
  }
}

void Engine::feed(Active& a, int64_t owner, int64_t rows, DecodeBatch& batch) {
  a.fed = rows;
  const Rollout& first = a.samples.front();
  for (int64_t i = a.cached; i < a.cached + rows; ++i) {
    const bool unknown = a.awaited >= 0 && i + 1 == a.length();
    batch.token.push_back(unknown ? 0 : first.tokens[size_t(i)]);
    batch.follows.push_back(unknown ? a.awaited : -1);
    batch.position.push_back(int32_t(i));
    batch.owner.push_back(int32_t(owner));
  }
  while (int64_t(a.pages.size()) * config_.page_size < a.cached + rows) a.pages.push_back(pool_.take());
  if (a.cached + rows < a.length()) return;
  a.draw = int32_t(batch.drawn.size());
  for (const Rollout& r : a.samples) {
    batch.drawn.push_back(int32_t(batch.token.size()) - 1);
    const base::Philox rng(base::mix(draws_, r.group));
    batch.uniform.push_back(rng.uniform(uint64_t(r.response_length()), uint64_t(r.sample)));
  }
}

// Sequences that wait for one token go first: a long prompt must not hold them up. Those that only wait for the host to see
// their last token have no rows.
DecodeBatch Engine::plan() {
  DecodeBatch batch;
  batch.pages_per_row = divide_up(config_.max_length, config_.page_size);
  batch.page_table.reserve(active_.size() * size_t(batch.pages_per_row));
  const auto left = [&](const Active& a) { return full(a.samples.front()) ? 0 : a.length() - a.cached; };
  int64_t room = config_.max_rows;
  for (Active& a : active_) room -= left(a) == 1 ? 1 : 0;
  for (size_t i = 0; i < active_.size(); ++i) {
    Active& a = active_[i];
    const int64_t rows = left(a) == 1 ? 1 : std::min(left(a), room);
    if (left(a) > 1) room -= rows;
    a.fed = 0;
    a.draw = -1;
    if (rows > 0) feed(a, int64_t(i), rows, batch);
    batch.page_table.insert(batch.page_table.end(), a.pages.begin(), a.pages.end());
    batch.page_table.resize((i + 1) * size_t(batch.pages_per_row), 0);
  }
  return batch;
}

bool Engine::step() {
  admit();
  DecodeBatch batch = plan();
  const int64_t own = batch.num_rows();
  const bool any =
      expert_.size() == 1 ? own > 0 : expert_.all_reduce(own, comm::ReduceOp::kMax, "rollout step") > 0;
  if (!any) return pause();
  if (own == 0) {
    batch.token.push_back(0);
    batch.follows.push_back(-1);
    batch.position.push_back(0);
    batch.owner.push_back(-1);
  }
  model_.start_decode(*cache_, batch, config_.shape);
  ++passes_;
  rows_fed_ += own;
  pause();
  under_way_ = version_;
  if (config_.routing) record_routing(batch.num_rows());
  advance();
  if (!ahead_) pause();
  return true;
}

bool Engine::pause() {
  if (!under_way_) return false;
  settle();
  under_way_.reset();
  return true;
}

void Engine::record_routing(int64_t rows) {
  const std::vector<uint8_t> all = model_.last_routing();
  const int64_t width = int64_t(all.size()) / rows;
  auto row = all.begin();
  for (Active& a : active_) {
    for (Rollout& r : a.samples) r.routing.insert(r.routing.end(), row, row + a.fed * width);
    row += a.fed * width;
  }
}

bool Engine::full(const Rollout& r) const {
  return r.response_length() >= config_.max_new_tokens || int64_t(r.tokens.size()) >= config_.max_length;
}

Finish Engine::finish(const Rollout& r) const {
  const auto response = std::span<const int32_t>(r.tokens).subspan(size_t(r.prompt_length));
  const bool stop = response.back() == config_.eos || (config_.stops && config_.stops(response));
  return stop ? Finish::kStop : full(r) ? Finish::kLength : Finish::kNone;
}

void Engine::settle() {
  const Decoded<float> decoded = model_.finish_decode(*cache_);
  std::vector<Active> next;
  next.reserve(active_.size());
  for (Active& a : active_) {
    if (a.awaited >= 0) {
      Rollout& r = a.samples.front();
      const size_t draw = size_t(std::exchange(a.awaited, -1));
      const float logp = decoded.logp[draw];
      require(std::isfinite(logp), ExitCode::kNumeric,
              "a sampled token has log-probability {}: the model's logits are not finite", logp);
      r.tokens.back() = decoded.token[draw];
      r.logp.push_back(logp);
      r.version.push_back(*under_way_);
      r.finish = finish(r);
      if (r.finish != Finish::kNone) {
        drop(a);
        --running_;
        finished_.push_back(std::move(r));
        continue;
      }
    }
    next.push_back(std::move(a));
  }
  active_ = std::move(next);
}

void Engine::advance() {
  std::vector<Active> next;
  next.reserve(size_t(running_));
  for (Active& a : active_) {
    a.cached += a.fed;
    if (a.draw >= 0) {
      split(std::move(a), next);
    } else {
      next.push_back(std::move(a));
    }
  }
  active_ = std::move(next);
}

void Engine::split(Active a, std::vector<Active>& next) {
  const size_t whole = size_t(a.cached / config_.page_size);
  const bool partial = a.cached % config_.page_size != 0;
  a.awaited = std::exchange(a.draw, -1);
  for (Rollout& r : a.samples) r.tokens.push_back(kUnknown);
  for (size_t i = 1; i < a.samples.size(); ++i) {
    Active child{.samples = {}, .pages = {}, .cached = a.cached, .awaited = a.awaited + int32_t(i)};
    if (!full(a.samples[i])) {
      child.pages.assign(a.pages.begin(), a.pages.begin() + long(whole));
      for (const int32_t page : child.pages) pool_.share(page);
      if (partial) {
        child.pages.push_back(pool_.take());
        model_.copy_page(*cache_, a.pages[whole], child.pages.back());
      }
    }
    child.samples.push_back(std::move(a.samples[i]));
    next.push_back(std::move(child));
  }
  a.samples.erase(a.samples.begin() + 1, a.samples.end());
  next.push_back(std::move(a));
}

void Engine::drop(Active& a) {
  for (const int32_t page : a.pages) pool_.drop(page);
  a.pages.clear();
}

std::vector<Rollout> Engine::interrupt() {
  pause();
  std::vector<Rollout> all;
  const auto move_out = [&](Active& a) {
    drop(a);
    for (Rollout& r : a.samples) {
      r.routing.clear();  // made again when it is fed again
      all.push_back(std::move(r));
    }
  };
  for (Active& a : active_) move_out(a);
  for (Active& a : waiting_) move_out(a);
  active_.clear();
  waiting_.clear();
  running_ = 0;
  return all;
}

}  // namespace cadre::trainer
