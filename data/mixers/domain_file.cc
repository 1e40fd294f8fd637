#include "data/mixers/domain_file.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/config.h"
#include "parallel/base/errors.h"
#include "parallel/base/files.h"

namespace cadre::data {

YAML::Node read_domain_file(const std::string& path, const std::string& key,
                            const std::vector<std::string>& domains) {
  YAML::Node root;
  try {
    root = YAML::Load(base::read_file(path, ExitCode::kData));
  } catch (const YAML::Exception& e) {
    fail(ExitCode::kData, "{}: not YAML or JSON: {}", path, e.what());
  }
  const YAML::Node map = key.empty() || !root.IsMap() ? root : root[key];
  require(map.IsDefined() && map.IsMap(), ExitCode::kData, "{}: expected a map of domains{}", path,
          key.empty() ? "" : " under '" + key + "'");
  for (const auto& entry : map) {
    const std::string name = entry.first.as<std::string>("");
    if (std::find(domains.begin(), domains.end(), name) != domains.end()) continue;
    const std::string near = base::nearest(name, domains);
    fail(ExitCode::kData, "{}: unknown domain '{}'{}; the data has {}", path, name,
         near.empty() ? "" : ", did you mean '" + near + "'?", fmt::join(domains, ", "));
  }
  for (const std::string& name : domains) {
    require(map[name].IsDefined(), ExitCode::kData,
            "{}: domain '{}' is missing; give it a number, 0 leaves it out", path, name);
  }
  return map;
}

double domain_number(const std::string& path, const std::string& domain, const YAML::Node& node) {
  double value = 0;
  const bool number = node.IsScalar() && YAML::convert<double>::decode(node, value);
  require(number && std::isfinite(value), ExitCode::kData,
          "{}: domain '{}' has '{}', expected a finite number", path, domain,
          node.IsScalar() ? node.Scalar() : "a list or map");
  return value;
}

}  // namespace cadre::data
