// 1 when the last number of the response's answer equals the right one; else 0. Numbers may have a sign, commas between
// groups of three digits, decimals, an exponent, or be a fraction "3/4". Whole numbers are compared digit by digit, so
// that they may have any length; others to a relative tolerance.
#include <algorithm>
#include <cmath>
#include <optional>

#include "data/rewards/makers.h"
#include "data/rewards/single.h"

namespace cadre::data {
namespace {

struct NumericConfig {
  std::string after;
  double tolerance = 1e-9;  // relative; absolute below 1
};

struct Number {
  std::string text;   // as found
  std::string whole;  // sign and digits without leading zeros, of a whole number; else empty
  double value = 0;
};

bool digit(char c) {
  return c >= '0' && c <= '9';
}

// Reads digits at `at`, with commas between groups of three, and returns them without the commas.
std::string read_digits(std::string_view text, size_t& at) {
  std::string digits;
  const auto group_follows = [&](size_t comma) {
    for (size_t i = 1; i <= 3; ++i) {
      if (comma + i >= text.size() || !digit(text[comma + i])) return false;
    }
    return comma + 4 >= text.size() || !digit(text[comma + 4]);
  };
  while (at < text.size()) {
    if (digit(text[at])) {
      digits += text[at++];
    } else if (text[at] == ',' && !digits.empty() && digits.size() <= 60 && group_follows(at)) {
      ++at;
    } else {
      break;
    }
  }
  return digits;
}

// A number that begins at `at`, which moves behind it; nothing when none does.
std::optional<Number> read_number(std::string_view text, size_t& at) {
  size_t i = at;
  std::string sign;
  if (text[i] == '-' || text[i] == '+') sign = text[i++] == '-' ? "-" : "";
  std::string plain = sign + read_digits(text, i);
  bool whole = true;
  if (plain.size() == sign.size()) return std::nullopt;
  if (i + 1 < text.size() && text[i] == '.' && digit(text[i + 1])) {
    whole = false;
    plain += '.';
    for (++i; i < text.size() && digit(text[i]); ++i) plain += text[i];
  }
  if (i + 1 < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    size_t j = i + 1;
    if (text[j] == '-' || text[j] == '+') ++j;
    if (j < text.size() && digit(text[j])) {
      whole = false;
      for (; i < j; ++i) plain += text[i];
      for (; i < text.size() && digit(text[i]); ++i) plain += text[i];
    }
  }
  Number number{.text = {}, .whole = {}, .value = std::strtod(plain.c_str(), nullptr)};
  if (whole) {
    const size_t first = std::min(plain.find_first_not_of("-0"), plain.size());
    number.whole = first == plain.size() ? "0" : sign + plain.substr(first);
  }
  number.text = text.substr(at, i - at);
  at = i;
  return number;
}

std::optional<Number> last_number(std::string_view text) {
  std::optional<Number> last;
  for (size_t at = 0; at < text.size();) {
    // "7-3" holds 7 and 3: a sign belongs to a number only where none of them ends.
    const bool bare = at > 0 && digit(text[at - 1]) && (text[at] == '-' || text[at] == '+');
    std::optional<Number> number;
    if (!bare) number = read_number(text, at);
    if (!number) {
      ++at;
      continue;
    }
    last = number;
    if (at + 1 >= text.size() || text[at] != '/' || !digit(text[at + 1])) continue;
    size_t below_at = at + 1;
    const Number below = *read_number(text, below_at);
    if (below.value == 0) continue;
    *last = {last->text + "/" + below.text, {}, last->value / below.value};
    at = below_at;
  }
  return last;
}

class Numeric final : public SingleReward {
 public:
  explicit Numeric(const NumericConfig& config) : config_(config) {}

 protected:
  RewardResult judge(const RewardRequest& request) const override {
    const auto right = last_number(trimmed(request.answer));
    if (!right) return RewardResult::failed("the answer '" + request.answer + "' has no number");
    const auto got = last_number(answer_of(request.response, config_.after));
    if (!got) return {};
    bool same = got->whole == right->whole;
    if (got->whole.empty() || right->whole.empty()) {
      const double off = std::abs(got->value - right->value);
      same = std::isfinite(got->value) && off <= config_.tolerance * std::max(1.0, std::abs(right->value));
    }
    return {.value = same ? 1.0 : 0.0, .parsed = got->text, .failure = {}};
  }

 private:
  NumericConfig config_;
};

}  // namespace

std::unique_ptr<Reward> make_numeric(base::Section section) {
  NumericConfig config;
  config.after = section.text("after", config.after);
  config.tolerance = section.number("tolerance", config.tolerance, {.min = 0});
  section.finish();
  return std::make_unique<Numeric>(config);
}

}  // namespace cadre::data
