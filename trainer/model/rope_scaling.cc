#include "trainer/model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "parallel/base/table.h"

namespace cadre::trainer {
namespace {

using base::Section;

std::vector<double> plain(double theta, int64_t head_dim) {
  std::vector<double> radians;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    radians.push_back(std::pow(theta, -2.0 * double(i) / double(head_dim)));
  }
  return radians;
}

RopeFrequencies unscaled(const RopeConfig& c, int64_t head_dim, int64_t) {
  return {plain(c.theta, head_dim)};
}

// Position interpolation (Chen et al. 2023, arXiv 2306.15595): position p becomes p / factor.
RopeFrequencies linear(const RopeConfig& c, int64_t head_dim, int64_t) {
  RopeFrequencies f{plain(c.theta, head_dim)};
  for (double& w : f.radians) w /= c.scaling.factor;
  return f;
}

// NTK-aware scaling with the length of the text (Peng et al. 2023, arXiv 2309.00071, section 3.3 and appendix
// B.1): theta grows so that the slowest pair is interpolated and the fastest is not. Nothing changes up to
// original_context.
RopeFrequencies dynamic(const RopeConfig& c, int64_t head_dim, int64_t positions) {
  const double original = double(c.scaling.original_context);
  const double length = std::max(double(positions), original), d = double(head_dim);
  const double grow = c.scaling.factor * length / original - (c.scaling.factor - 1);
  return {plain(c.theta * std::pow(grow, d / (d - 2)), head_dim)};
}

// Llama 3.1 (Grattafiori et al. 2024, arXiv 2407.21783, section 3.4.2, and the published model's code): pairs
// that turn less than low_freq_factor times within original_context are interpolated, those above
// high_freq_factor kept, between them both are blended.
RopeFrequencies llama3(const RopeConfig& c, int64_t head_dim, int64_t) {
  const RopeScaling& s = c.scaling;
  RopeFrequencies f{plain(c.theta, head_dim)};
  for (double& w : f.radians) {
    const double turns = double(s.original_context) * w / (2 * std::numbers::pi);
    const double keep = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    const double kept = std::clamp(keep, 0.0, 1.0);
    w *= kept + (1 - kept) / s.factor;
  }
  return f;
}

// YaRN (Peng et al. 2023, arXiv 2309.00071, eq. 17 to 22): the blend of llama3 with a ramp over the pair's
// index, whose ends are the pairs that turn beta_fast and beta_slow times within original_context, and scores
// sharpened by attention_factor^2.
RopeFrequencies yarn(const RopeConfig& c, int64_t head_dim, int64_t) {
  const RopeScaling& s = c.scaling;
  const double d = double(head_dim);
  const auto pair_of = [&](double turns) {
    return d * std::log(double(s.original_context) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(c.theta));
  };
  double low = pair_of(s.beta_fast), high = pair_of(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;  // the width that published models' code gives an empty ramp
  RopeFrequencies f{plain(c.theta, head_dim)};
  for (size_t i = 0; i < f.radians.size(); ++i) {
    const double stretch = std::clamp((double(i) - low) / (high - low), 0.0, 1.0);
    f.radians[i] *= (1 - stretch) + stretch / s.factor;
  }
  f.amplitude = s.attention_factor > 0 ? s.attention_factor : 0.1 * std::log(s.factor) + 1;
  return f;
}

void read_factor(Section& section, RopeScaling& s) {
  s.factor = section.number("factor", 0, {.min = 0});
  if (s.factor < 1) section.reject("factor", fmt::format("found {}, expected at least 1", s.factor));
}
void read_context(Section& section, RopeScaling& s) {
  read_factor(section, s);
  s.original_context = section.integer("original_context", {.min = 1, .max = int64_t(1) << 40});
}
void read_none(Section&, RopeScaling&) {}
void read_llama3(Section& section, RopeScaling& s) {
  read_context(section, s);
  s.low_freq_factor = section.number("low_freq_factor", s.low_freq_factor, {.above = 0});
  s.high_freq_factor = section.number("high_freq_factor", s.high_freq_factor, {.above = 0});
  if (s.high_freq_factor <= s.low_freq_factor) {
    section.reject("high_freq_factor", fmt::format("found {}, expected more than low_freq_factor = {}",
                                                   s.high_freq_factor, s.low_freq_factor));
  }
}
void read_yarn(Section& section, RopeScaling& s) {
  read_context(section, s);
  s.beta_fast = section.number("beta_fast", s.beta_fast, {.above = 0});
  s.beta_slow = section.number("beta_slow", s.beta_slow, {.above = 0});
  s.attention_factor = section.number("attention_factor", s.attention_factor, {.min = 0});
  s.truncate = section.boolean("truncate", s.truncate);
}

struct RopeRule {
  void (*read)(Section&, RopeScaling&);
  RopeFrequencies (*frequencies)(const RopeConfig&, int64_t head_dim, int64_t positions);
};
const std::vector<base::Entry<RopeRule>>& rule_table() {
  static const std::vector<base::Entry<RopeRule>> kTable = {
      {"none", "angles as they are", {read_none, unscaled}},
      {"linear", "positions divided by factor", {read_factor, linear}},
      {"dynamic", "theta grows with the length past original_context", {read_context, dynamic}},
      {"llama3", "slow pairs divided by factor, blended by wavelength", {read_llama3, llama3}},
      {"yarn", "slow pairs divided by factor, blended by index; scores scaled", {read_yarn, yarn}},
  };
  return kTable;
}
const RopeRule& rule(const std::string& name) {
  return base::find_entry(rule_table(), "rope scaling", name).make;
}

std::string number(double x) {
  return fmt::format("{}", x);
}

YAML::Node scaling_node(const RopeScaling& s) {
  YAML::Node n;
  n["name"] = s.name;
  if (s.name == "none") return n;
  n["factor"] = number(s.factor);
  if (s.name == "linear") return n;
  n["original_context"] = s.original_context;
  if (s.name == "llama3") {
    n["low_freq_factor"] = number(s.low_freq_factor);
    n["high_freq_factor"] = number(s.high_freq_factor);
  } else if (s.name == "yarn") {
    n["beta_fast"] = number(s.beta_fast);
    n["beta_slow"] = number(s.beta_slow);
    n["attention_factor"] = number(s.attention_factor);
    n["truncate"] = s.truncate ? "true" : "false";
  }
  return n;
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeConfig& config, int64_t head_dim, int64_t positions) {
  return rule(config.scaling.name).frequencies(config, head_dim, positions);
}

bool depends_on_length(const RopeConfig& config) {
  return config.scaling.name == "dynamic";
}

RopeConfig read_rope(base::Section section) {
  RopeConfig c;
  c.theta = section.number("theta", c.theta, {.above = 1});
  Section scaling = section.section("scaling");
  c.scaling.name = scaling.text("name", c.scaling.name);
  rule(c.scaling.name).read(scaling, c.scaling);
  scaling.finish();
  section.finish();
  return c;
}

YAML::Node rope_node(const RopeConfig& config) {
  YAML::Node n;
  n["theta"] = number(config.theta);
  n["scaling"] = scaling_node(config.scaling);
  return n;
}

}  // namespace cadre::trainer
