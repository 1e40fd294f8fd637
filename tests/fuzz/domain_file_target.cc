// Weights or utilities by domain, for the mixers that take a file.
#include "data/mixers/domain_file.h"

#include <cmath>

#include "tests/fuzz/targets.h"

void cadre::fuzz::domain_file_target(std::string_view input) {
  const std::string path = write("weights.yaml", input).string();
  for (const char* key : {"", "utility"}) {
    survive([&] {
      const YAML::Node map = data::read_domain_file(path, key, {"web", "code"});
      for (const char* domain : {"web", "code"}) {
        const YAML::Node value = map[domain];
        for (size_t i = 0; value.IsSequence() && i < value.size(); ++i)
          if (!std::isfinite(data::domain_number(path, domain, value[i]))) std::abort();
        if (!std::isfinite(data::domain_number(path, domain, value))) std::abort();
      }
    });
  }
}
