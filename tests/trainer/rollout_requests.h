// Samples to be drawn from a model.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "parallel/base/rng.h"
#include "trainer/rollout/rollout.h"

namespace cadre::trainer::testing {

// Groups of samples of prompts of 1 to `longest` tokens, none of which is 0 or 1 (the end of a text).
inline std::vector<std::vector<Rollout>> requests(int groups, int samples, int64_t longest, int64_t vocab) {
  const base::Philox rng(11);
  std::vector<std::vector<Rollout>> all;
  for (int g = 0; g < groups; ++g) {
    Rollout r;
    r.group = uint64_t(g);
    r.prompt_length = 1 + int64_t(rng.bits(uint64_t(g)) % uint64_t(longest));
    for (int64_t i = 0; i < r.prompt_length; ++i)
      r.tokens.push_back(int32_t(2 + rng.bits(uint64_t(i), uint64_t(g + 1)) % uint64_t(vocab - 2)));
    std::vector<Rollout>& group = all.emplace_back();
    for (r.sample = 0; r.sample < samples; ++r.sample) group.push_back(r);
  }
  return all;
}

// By group and sample, in whatever order they ended.
inline std::vector<Rollout> sorted(std::vector<Rollout> rollouts) {
  std::sort(rollouts.begin(), rollouts.end(), [](const Rollout& a, const Rollout& b) {
    return std::pair(a.group, a.sample) < std::pair(b.group, b.sample);
  });
  return rollouts;
}

}  // namespace cadre::trainer::testing
