// Mixers made from a line of a run file, for tests of single mixers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/mixer.h"

namespace cadre::data::testing {

inline std::unique_ptr<Mixer> make_from(const std::string& yaml, const MixerContext& context) {
  return make_mixer(base::parse_run_text("mixer: " + yaml, "test.yaml", {}).section("mixer"), context);
}
inline MixerContext context_of(size_t domains, int64_t each = 1 << 20, int64_t total = 1000) {
  return {std::vector<std::string>(domains, "d"), std::vector<int64_t>(domains, each), total};
}

}  // namespace cadre::data::testing
