// Natural: each domain by its size, w_k = N_k / sum N.
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {
struct NaturalConfig {
  double max_epochs = 0;  // 0: no cap
};
}  // namespace

std::unique_ptr<Mixer> make_natural(base::Section section, const MixerContext& context) {
  NaturalConfig config;
  config.max_epochs = section.number("max_epochs", config.max_epochs, {.min = 0});
  section.finish();
  return std::make_unique<StaticMixer>(
      normalised(std::vector<double>(context.domain_tokens.begin(), context.domain_tokens.end())),
      config.max_epochs);
}

}  // namespace cadre::data
