// 1 when a regular expression (PCRE2) matches the response; else 0. Running into the step limit is a failure.
#include "data/rewards/bounded_regex.h"
#include "data/rewards/makers.h"
#include "data/rewards/single.h"

namespace cadre::data {
namespace {

class RegexReward final : public SingleReward {
 public:
  explicit RegexReward(BoundedRegex regex) : regex_(std::move(regex)) {}

 protected:
  RewardResult judge(const RewardRequest& request) const override {
    const Match match = regex_.match(request.response);
    if (match == Match::kTooManySteps)
      return RewardResult::failed("the pattern takes too many steps on this response");
    return {.value = match == Match::kYes ? 1.0 : 0.0, .parsed = request.response, .failure = {}};
  }

 private:
  BoundedRegex regex_;
};

}  // namespace

std::unique_ptr<Reward> make_regex(base::Section section) {
  const std::string pattern = section.text("pattern");
  const bool whole = section.boolean("whole", false);
  const auto limit = uint32_t(section.integer("match_limit", 1'000'000, {.min = 1, .max = 1'000'000'000}));
  section.finish();
  return std::make_unique<RegexReward>(
      BoundedRegex(pattern, whole, limit, section.source() + ": reward.pattern"));
}

}  // namespace cadre::data
