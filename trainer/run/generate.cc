#include "trainer/run/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "parallel/base/rng.h"

namespace cadre::trainer {
namespace {

// Ids by falling logit, cut to top_k.
std::vector<int32_t> candidates(device::View<const float, 1> logits, int64_t top_k) {
  std::vector<int32_t> ids(size_t(logits.size()));
  std::iota(ids.begin(), ids.end(), 0);
  const int64_t keep = top_k > 0 ? std::min<int64_t>(top_k, logits.size()) : logits.size();
  std::partial_sort(ids.begin(), ids.begin() + keep, ids.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  ids.resize(size_t(keep));
  return ids;
}

}  // namespace

int32_t sample(device::View<const float, 1> logits, const SamplingConfig& config, uint64_t index) {
  const bool greedy = config.temperature == 0;
  const std::vector<int32_t> ids = candidates(logits, greedy ? 1 : config.top_k);
  if (greedy) return ids.front();
  std::vector<double> weight(ids.size());
  double sum = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    weight[i] = std::exp((double(logits[ids[i]]) - double(logits[ids[0]])) / config.temperature);
    sum += weight[i];
  }
  size_t count = 0;  // top-p: as many as reach the mass, the one that crosses it included
  double mass = 0;
  while (count < ids.size() && (count == 0 || mass < config.top_p * sum)) mass += weight[count++];
  double left = base::Philox(base::mix(config.seed, base::hash_name("generate"))).uniform(index) * mass;
  for (size_t i = 0; i < count; ++i) {
    left -= weight[i];
    if (left < 0) return ids[i];
  }
  return ids[count - 1];
}

void generate(ModelState& model, std::vector<int32_t> prompt, int64_t max_tokens, int32_t eos,
              const SamplingConfig& config, const std::function<void(int32_t)>& on_token) {
  require(model.decoder.causal(), ExitCode::kUsage,
          "this model's router (expert choice) looks at later tokens, so it cannot generate text one token "
          "at a time");
  auto cache = model.decoder.make_cache(int64_t(prompt.size()) + max_tokens);
  std::vector<int32_t> next = std::move(prompt);
  for (int64_t i = 0; i < max_tokens; ++i) {
    const int32_t token = sample(model.decoder.extend(*cache, next), config, uint64_t(i));
    if (token == eos) return;
    on_token(token);
    next = {token};
  }
}

}  // namespace cadre::trainer
