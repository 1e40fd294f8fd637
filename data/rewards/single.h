// Rewards that look at one response at a time, and how they find the answer in it.
#pragma once

#include <string_view>

#include "data/reward.h"

namespace cadre::data {

class SingleReward : public Reward {
 public:
  std::vector<RewardResult> score(std::span<const RewardRequest> requests) const final {
    std::vector<RewardResult> results;
    for (const RewardRequest& request : requests) results.push_back(judge(request));
    return results;
  }

 protected:
  virtual RewardResult judge(const RewardRequest& request) const = 0;
};

// Without white space (ASCII) at both ends.
std::string_view trimmed(std::string_view text);
// The answer of a response: with a marker, the rest of the line behind its last occurrence (nothing when there
// is none); without, all of it. Trimmed.
std::string_view answer_of(std::string_view response, std::string_view marker);

}  // namespace cadre::data
