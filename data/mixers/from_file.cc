// Shares from a file: a YAML or JSON map of domain names to numbers, which need not add up to 1. Every domain must
// be named, so that a typo cannot silently leave one out.
#include <cmath>

#include "data/mixers/domain_file.h"
#include "data/mixers/static_mixer.h"

namespace cadre::data {

std::unique_ptr<Mixer> make_from_file(base::Section section, const MixerContext& context) {
  const std::string path = section.text("path", "");
  const double max_epochs = section.number("max_epochs", 0, {.min = 0});
  section.finish();
  if (context.made_up) return std::make_unique<StaticMixer>(std::vector<double>{}, max_epochs);
  if (path.empty()) section.reject("path", "missing; give a file with one `domain: number` a line");
  std::vector<double> weights;
  double sum = 0;
  const YAML::Node file = read_domain_file(path, "", context.domains);
  for (size_t k = 0; k < context.domains.size(); ++k) {
    weights.push_back(domain_number(path, context.domains[k], file[context.domains[k]]));
    require(weights[k] >= 0, ExitCode::kData, "{}: domain '{}' has weight {}, expected 0 or more", path,
            context.domains[k], weights[k]);
    require(weights[k] == 0 || context.domain_tokens[k] > 0, ExitCode::kData,
            "{}: domain '{}' has weight {}, but the data has no text of it", path, context.domains[k],
            weights[k]);
    sum += weights[k];
  }
  require(sum > 0 && std::isfinite(sum), ExitCode::kData, "{}: all weights are 0", path);
  return std::make_unique<StaticMixer>(normalised(std::move(weights)), max_epochs);
}

}  // namespace cadre::data
