// Rewards say how good a sampled response is. One file a reward in rewards/, one row in rewards/table.cc. A response that
// cannot be judged (a program that hangs, a pattern that takes too many steps) gets 0 and is counted as a failure.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/base/table.h"

namespace cadre::data {

struct RewardRequest {
  std::string prompt, response;
  std::string answer;  // what the task or the prompt set holds to be right; may be empty
};
struct RewardResult {
  double value = 0;
  std::string parsed;   // what was judged: the part of the response that was taken for its answer
  std::string failure;  // why there was no judgement, one line; empty when there was

  static RewardResult failed(std::string why) { return {0, {}, std::move(why)}; }
};

class Reward {
 public:
  virtual ~Reward() = default;
  // One result a request, in order; the value depends on the request alone. Thread-safe.
  virtual std::vector<RewardResult> score(std::span<const RewardRequest> requests) const = 0;
};

using RewardMaker = std::unique_ptr<Reward> (*)(base::Section);
const std::vector<base::Entry<RewardMaker>>& reward_table();
// The `reward` section; exact_match when it has no name.
std::unique_ptr<Reward> make_reward(base::Section section);

}  // namespace cadre::data
