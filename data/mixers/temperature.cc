// Temperature: w_k ~ N_k^(1/tau). tau 1 is natural; large tau goes to uniform.
#include <algorithm>
#include <cmath>

#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {
struct TemperatureConfig {
  double tau = 3.3;       // mT5 samples with exponent 0.3 (Xue et al. 2021)
  double max_epochs = 0;  // 0: no cap
};
}  // namespace

std::unique_ptr<Mixer> make_temperature(base::Section section, const MixerContext& context) {
  TemperatureConfig config;
  config.tau = section.number("tau", config.tau, {.above = 0});
  config.max_epochs = section.number("max_epochs", config.max_epochs, {.min = 0});
  section.finish();
  // Relative to the largest, so that a small tau cannot overflow.
  const double largest =
      double(*std::max_element(context.domain_tokens.begin(), context.domain_tokens.end()));
  std::vector<double> values;
  for (const int64_t tokens : context.domain_tokens)
    values.push_back(std::pow(double(tokens) / largest, 1 / config.tau));
  return std::make_unique<StaticMixer>(normalised(std::move(values)), config.max_epochs);
}

}  // namespace cadre::data
