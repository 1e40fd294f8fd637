// Uniform: every domain that has text gets the same share.
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {
struct UniformConfig {
  double max_epochs = 0;  // 0: no cap
};
}  // namespace

std::unique_ptr<Mixer> make_uniform(base::Section section, const MixerContext& context) {
  UniformConfig config;
  config.max_epochs = section.number("max_epochs", config.max_epochs, {.min = 0});
  section.finish();
  std::vector<double> values;
  for (const int64_t tokens : context.domain_tokens) values.push_back(tokens > 0 ? 1 : 0);
  return std::make_unique<StaticMixer>(normalised(std::move(values)), config.max_epochs);
}

}  // namespace cadre::data
