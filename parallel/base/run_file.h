// Reading files whose maps may have paths of another file for keys, as study files do: {train.steps: 300}.
#pragma once

#include <span>

#include "parallel/base/config.h"

namespace cadre::base {

// Whether the map under these keys has paths for keys.
using HoldsPaths = bool (*)(std::span<const std::string> keys);

// As those of config.h. In a map of paths, what is left of an override's path is one key; but where the file has a key of
// its first words, that is changed: mixer.period=4 changes {mixer: gim} to {mixer: {name: gim, period: 4}}.
Section parse_run_file(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                       HoldsPaths holds_paths);
Section parse_run_text(const std::string& text, const std::string& source,
                       const std::vector<std::string>& overrides, HoldsPaths holds_paths);

}  // namespace cadre::base
