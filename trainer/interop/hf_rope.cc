// Two spellings: `rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (before). Both are
// read; the second is written, which every version reads, unless the model came with the first.
#include <cmath>
#include <set>

#include "data/tokenizers/json_fields.h"
#include "parallel/base/errors.h"
#include "trainer/interop/hf_config.h"
#include "trainer/interop/json_numbers.h"

namespace cadre::interop {
namespace {

using data::JsonFields;
using nlohmann::json;
using trainer::RopeConfig;
using trainer::RopeScaling;

constexpr int64_t kMaxPositions = int64_t(1) << 40;

std::string rule_name(const JsonFields& rope) {
  for (const char* key : {"rope_type", "type"}) {
    if (rope.has(key)) return rope.text(key);
  }
  return "default";
}

// An option that is not known here could change every angle.
void check_keys(const json& rope, const std::string& where, const std::string& rule) {
  std::set<std::string> known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"};
  if (rule != "default") known.insert("factor");
  if (rule == "dynamic" || rule == "llama3" || rule == "yarn")
    known.insert("original_max_position_embeddings");
  if (rule == "llama3") known.insert({"low_freq_factor", "high_freq_factor"});
  if (rule == "yarn") {
    known.insert({"attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"});
  }
  for (const auto& [key, value] : rope.items()) {
    require(known.contains(key) || value.is_null(), ExitCode::kData,
            "{}: the option '{}' of rotary type '{}' is not known here", where, key, rule);
  }
}

// YaRN's factor of cosines and sines, from whichever of the published options are there (arXiv 2309.00071,
// eq. 22, and DeepSeek's two scales, arXiv 2405.04434).
double attention_factor(const JsonFields& rope, double factor) {
  const double given = real_or(rope, "attention_factor", 0);
  if (given > 0) return given;
  const double scale = real_or(rope, "mscale", 0), all = real_or(rope, "mscale_all_dim", 0);
  if (scale == 0 || all == 0 || factor <= 1) return 0;
  return (0.1 * scale * std::log(factor) + 1) / (0.1 * all * std::log(factor) + 1);
}

RopeScaling read_scaling(const JsonFields& rope, const std::string& rule, int64_t max_positions) {
  RopeScaling s;
  if (rule == "default") return s;
  s.name = rule;
  const bool own_context = rope.has("original_max_position_embeddings") && rule != "dynamic";
  s.original_context =
      own_context ? rope.number("original_max_position_embeddings", 1, kMaxPositions) : max_positions;
  s.factor = rope.has("factor") ? real_or(rope, "factor", 0) : 0;
  if (s.factor == 0 && rule == "yarn") s.factor = double(max_positions) / double(s.original_context);
  require(s.factor >= 1, ExitCode::kData, "{}: factor is {}, expected a number from 1 on", rope.where(),
          s.factor);
  if (rule == "linear") s.original_context = 0;
  if (rule == "llama3") {
    s.low_freq_factor = real_or(rope, "low_freq_factor", s.low_freq_factor);
    s.high_freq_factor = real_or(rope, "high_freq_factor", s.high_freq_factor);
  } else if (rule == "yarn") {
    s.beta_fast = real_or(rope, "beta_fast", s.beta_fast);
    s.beta_slow = real_or(rope, "beta_slow", s.beta_slow);
    s.attention_factor = attention_factor(rope, s.factor);
    s.truncate = rope.flag("truncate", s.truncate);
  }
  return s;
}

json scaling_json(const RopeScaling& s) {
  json j = {{"rope_type", s.name == "none" ? "default" : s.name}};
  if (s.name == "none") return j;
  j["factor"] = s.factor;
  if (s.name == "llama3" || s.name == "yarn") j["original_max_position_embeddings"] = s.original_context;
  if (s.name == "llama3") {
    j["low_freq_factor"] = s.low_freq_factor;
    j["high_freq_factor"] = s.high_freq_factor;
  } else if (s.name == "yarn") {
    j["beta_fast"] = s.beta_fast;
    j["beta_slow"] = s.beta_slow;
    if (s.attention_factor > 0) j["attention_factor"] = s.attention_factor;
    if (!s.truncate) j["truncate"] = false;
  }
  return j;
}

}  // namespace

RopeConfig read_hf_rope(const json& config, const std::string& where, double default_theta,
                        int64_t max_positions) {
  const JsonFields fields(config, where);
  const char* key = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const json none = json::object();
  const json& section = fields.has(key) ? fields.value(key) : none;
  const JsonFields rope(section, where + ": " + key);
  const std::string rule = rule_name(rope);
  const bool known =
      rule == "default" || rule == "linear" || rule == "dynamic" || rule == "llama3" || rule == "yarn";
  require(known, ExitCode::kData, "{}: found '{}', expected default, linear, dynamic, llama3 or yarn",
          rope.where(), rule);
  check_keys(section, rope.where(), rule);
  for (const JsonFields* holder : {&fields, &rope}) {
    if (real_or(*holder, "partial_rotary_factor", 1) != 1) {
      holder->refuse("partial_rotary_factor", "1: heads are rotated whole");
    }
  }
  RopeConfig result;
  result.theta = real_or(rope, "rope_theta", real_or(fields, "rope_theta", default_theta));
  result.scaling = read_scaling(rope, rule, max_positions);
  return result;
}

void write_hf_rope(json& config, const RopeConfig& rope) {
  const bool newer = config.contains("rope_parameters");
  for (const char* key : {"rope_parameters", "rope_theta", "rope_scaling"}) config.erase(key);
  if (newer) {
    config["rope_parameters"] = scaling_json(rope.scaling);
    config["rope_parameters"]["rope_theta"] = rope.theta;
    return;
  }
  config["rope_theta"] = rope.theta;
  config["rope_scaling"] = rope.scaling.name == "none" ? json() : scaling_json(rope.scaling);
}

}  // namespace cadre::interop
