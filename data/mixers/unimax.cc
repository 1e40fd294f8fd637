// UniMax (Chung et al. 2023, arXiv 2304.09151, Alg. 1): as uniform as a cap on epochs allows. Domains by
// rising size each take an equal share of what is left of the budget R, or max_epochs times their size if
// that is less.
#include <algorithm>
#include <numeric>

#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {
struct UnimaxConfig {
  double max_epochs = 4;  // repeating up to 4 times is nearly as good as new text (Muennighoff et al. 2023)
};
}  // namespace

std::vector<double> unimax_weights(const base::Section& section, const MixerContext& context,
                                   double max_epochs) {
  const auto& sizes = context.domain_tokens;
  const double budget = double(context.total_tokens);
  const double most = max_epochs * double(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
  // Scaling the shares up instead would break every cap.
  if (budget > most) {
    section.reject(
        "max_epochs",
        fmt::format("the run trains {} tokens, but {} epochs of the data give at most {:.0f}. Raise "
                    "mixer.max_epochs, lower train.steps, or prepare more data",
                    context.total_tokens, max_epochs, most));
  }
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] < sizes[b]; });
  std::vector<double> taken(sizes.size());
  double left = budget;
  for (size_t i = 0; i < order.size(); ++i) {
    const double share = left / double(order.size() - i);
    taken[order[i]] = std::min(share, max_epochs * double(sizes[order[i]]));
    left -= taken[order[i]];
  }
  return normalised(std::move(taken));
}

std::unique_ptr<Mixer> make_unimax(base::Section section, const MixerContext& context) {
  UnimaxConfig config;
  config.max_epochs = section.number("max_epochs", config.max_epochs, {.above = 0});
  std::vector<double> weights = unimax_weights(section, context, config.max_epochs);
  section.finish();
  return std::make_unique<StaticMixer>(std::move(weights), config.max_epochs);
}

}  // namespace cadre::data
