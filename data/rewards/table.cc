// Every reward, by name. Add a row here when you add a file.
#include "data/rewards/makers.h"
#include "parallel/base/named_entry.h"

namespace cadre::data {

const std::vector<base::Entry<RewardMaker>>& reward_table() {
  static const std::vector<base::Entry<RewardMaker>> table = {
      {"exact_match", "the answer, letter by letter, {after, ignore_case}", make_exact_match},
      {"numeric", "the last number equals the answer, {after, tolerance}", make_numeric},
      {"regex", "a regular expression matches, {pattern, whole, match_limit}", make_regex},
      {"json_schema", "JSON of a given shape, {schema or file, after}", make_json_schema},
      {"program", "what an external program prints, {command, timeout_s, memory_mb, ...}", make_program},
  };
  return table;
}

std::unique_ptr<Reward> make_reward(base::Section section) {
  const std::string name = section.text("name", "exact_match");
  return base::find_entry(reward_table(), "reward", section, name).make(section);
}

}  // namespace cadre::data
