#include "trainer/rollout/sampler.h"

#include <algorithm>
#include <chrono>

#include "parallel/base/errors.h"
#include "parallel/base/log.h"

namespace cadre::trainer {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Whether the text of the last tokens holds a stop text; a token is at least a byte, but for those without text.
std::function<bool(std::span<const int32_t>)> stop_rule(const data::Tokenizer& tokenizer,
                                                        const std::vector<std::string>& stops) {
  if (stops.empty()) return {};
  size_t longest = 0;
  for (const std::string& s : stops) longest = std::max(longest, s.size());
  return [&tokenizer, stops, tail = longest + 8](std::span<const int32_t> response) {
    const std::string text = tokenizer.decode(response.last(std::min(tail, response.size())));
    return std::any_of(stops.begin(), stops.end(),
                       [&](const std::string& s) { return text.find(s) != std::string::npos; });
  };
}

}  // namespace

EngineConfig engine_config(const SamplerContext& context, const RolloutConfig& config) {
  return {.max_sequences = config.sequences,
          .page_size = config.page_size,
          .cache_tokens = config.cache_tokens,
          .max_length = context.max_length,
          .max_new_tokens = config.max_new_tokens,
          .max_rows = context.max_rows,
          .shape = config.shape,
          .seed = context.seed,
          .eos = context.tokenizer->eos(),
          .stops = stop_rule(*context.tokenizer, config.stop),
          .routing = config.routing_replay};
}

SampleStats& SampleStats::operator+=(const SampleStats& other) {
  fed_tokens += other.fed_tokens;
  new_tokens += other.new_tokens;
  passes += other.passes;
  seconds += other.seconds;
  reward_seconds += other.reward_seconds;
  return *this;
}

Sampler::Sampler(const SamplerContext& context, const RolloutConfig& config)
    : context_(context), engine_(*context.model, context.mesh->expert(), engine_config(context, config)) {}

std::vector<Rollout> Sampler::sample(std::vector<std::vector<Rollout>> groups, uint32_t version,
                                     const device::SampleShape& shape, const data::Corpus& prompts) {
  comm::Communicator& data = context_.mesh->data();
  const Clock::time_point start = Clock::now();
  const int64_t fed = engine_.rows_fed(), passes = engine_.passes();
  engine_.set_version(version);
  engine_.set_shape(shape);
  for (size_t i = size_t(data.rank()); i < groups.size(); i += size_t(data.size()))
    engine_.add(std::move(groups[i]));
  while (engine_.step()) {
  }
  std::vector<Rollout> own = engine_.take_finished();
  const Clock::time_point judging = Clock::now();
  judge_rollouts(own, context_, prompts);
  double sums[] = {double(engine_.rows_fed() - fed), 0};
  for (const Rollout& r : own) sums[1] += double(r.response_length());
  double most[] = {double(engine_.passes() - passes), seconds_since(judging), seconds_since(start)};
  data.all_reduce(std::span<double>(sums), comm::ReduceOp::kSum, "sampled tokens");
  data.all_reduce(std::span<double>(most), comm::ReduceOp::kMax, "sampling time");
  stats_ = {int64_t(sums[0]), int64_t(sums[1]), int64_t(most[0]), most[2], most[1]};
  std::vector<Rollout> all;
  for (const std::string& part : data.gather_texts(pack(own), "rollouts")) {
    for (Rollout& r : unpack(part)) all.push_back(std::move(r));
  }
  std::sort(all.begin(), all.end(), [](const Rollout& a, const Rollout& b) {
    return std::pair(a.group, a.sample) < std::pair(b.group, b.sample);
  });
  return all;
}

void judge_rollouts(std::vector<Rollout>& rollouts, const SamplerContext& context,
                    const data::Corpus& prompts) {
  std::vector<data::RewardRequest> requests;
  for (const Rollout& r : rollouts) {
    const std::span<const int32_t> tokens(r.tokens);
    const size_t prompt = size_t(r.prompt_length);
    requests.push_back({context.tokenizer->decode(tokens.first(prompt)),
                        context.tokenizer->decode(tokens.subspan(prompt)),
                        prompts.prompt(r.document).answer});
  }
  const std::vector<data::RewardResult> results = context.reward->score(requests);
  size_t failed = 0, first = 0;
  for (size_t i = 0; i < rollouts.size(); ++i) {
    rollouts[i].reward = results[i].value;
    rollouts[i].failed = !results[i].failure.empty();
    if (rollouts[i].failed && failed++ == 0) first = i;
  }
  if (failed > 0)
    spdlog::warn("the reward could not judge {} of {} responses, which get 0; the first: {}", failed,
                 rollouts.size(), results[first].failure);
}

std::vector<Rollout> make_group(const data::Corpus& prompts, int64_t document, uint64_t group,
                                int64_t samples) {
  const data::DocumentInfo info = prompts.document(document);
  Rollout r;
  r.group = group;
  r.document = document;
  r.domain = info.domain;
  r.level = prompts.prompt(document).level;
  r.prompt_length = info.length;
  r.tokens.resize(size_t(info.length));
  prompts.read(document, 0, r.tokens);
  std::vector<Rollout> all(static_cast<size_t>(samples), r);
  for (size_t i = 0; i < all.size(); ++i) all[i].sample = int32_t(i);
  return all;
}

void require_room(const data::Corpus& prompts, int64_t max_length) {
  for (int64_t d = 0; d < prompts.num_documents(); ++d) {
    const int64_t length = prompts.document(d).length;
    require(length < max_length, ExitCode::kData,
            "prompt {} has {} tokens and data.seq_len is {}, which leaves no room for a response: raise "
            "data.seq_len, or "
            "prepare with --max-tokens",
            d, length, max_length);
  }
}

}  // namespace cadre::trainer
