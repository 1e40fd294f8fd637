// YAML or JSON files with something for each domain.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>
#include <vector>

namespace cadre::data {

// The file's map (of `key`, or the whole file), with exactly the given domains as keys. Throws Error(kData) naming
// the first domain that is unknown or missing.
YAML::Node read_domain_file(const std::string& path, const std::string& key,
                            const std::vector<std::string>& domains);
// A finite number, or Error(kData).
double domain_number(const std::string& path, const std::string& domain, const YAML::Node& node);

}  // namespace cadre::data
