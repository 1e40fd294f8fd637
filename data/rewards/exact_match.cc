// 1 when the response's answer is the right one, letter by letter after trimming; else 0.
#include <algorithm>

#include "data/rewards/makers.h"
#include "data/rewards/single.h"

namespace cadre::data {
namespace {

struct ExactMatchConfig {
  std::string after;         // the answer stands behind this text; empty: the response is the answer
  bool ignore_case = false;  // of ASCII letters
};

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
}

class ExactMatch final : public SingleReward {
 public:
  explicit ExactMatch(const ExactMatchConfig& config) : config_(config) {}

 protected:
  RewardResult judge(const RewardRequest& request) const override {
    const std::string_view got = answer_of(request.response, config_.after), right = trimmed(request.answer);
    const auto equal = [this](char a, char b) { return config_.ignore_case ? lower(a) == lower(b) : a == b; };
    const bool same = std::equal(got.begin(), got.end(), right.begin(), right.end(), equal);
    return {.value = same ? 1.0 : 0.0, .parsed = std::string(got), .failure = {}};
  }

 private:
  ExactMatchConfig config_;
};

}  // namespace

std::unique_ptr<Reward> make_exact_match(base::Section section) {
  ExactMatchConfig config;
  config.after = section.text("after", config.after);
  config.ignore_case = section.boolean("ignore_case", config.ignore_case);
  section.finish();
  return std::make_unique<ExactMatch>(config);
}

}  // namespace cadre::data
