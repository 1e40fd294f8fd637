#include "optim/advantage.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <map>

namespace cadre::optim {
namespace {

struct Center {
  double mean = 0, scale = 1;
};

Center center_of(AdvantageKind kind, const std::vector<double>& rewards) {
  const double n = double(rewards.size());
  if (rewards.size() == 1) {
    if (kind == AdvantageKind::kRloo) return {rewards[0], 1};
    return {0, kind == AdvantageKind::kMeanStd ? 1 / (1 + 1e-6) : 1};
  }
  const auto [least, most] = std::minmax_element(rewards.begin(), rewards.end());
  if (*least == *most) return {*least, 0};  // else the rounding of the mean, divided by 1e-6, would train
  double mean = 0, squares = 0;
  for (double r : rewards) mean += r / n;
  for (double r : rewards) squares += (r - mean) * (r - mean);
  if (kind == AdvantageKind::kRloo) return {mean, n / (n - 1)};
  return {mean, kind == AdvantageKind::kMeanStd ? 1 / (std::sqrt(squares / (n - 1)) + 1e-6) : 1};
}

}  // namespace

AdvantageKind read_advantage(base::Section& section) {
  const std::vector<std::string> words = {"mean", "mean_std", "rloo", "given"};
  const std::string word = section.choice("advantage", "mean_std", words);
  return AdvantageKind(std::find(words.begin(), words.end(), word) - words.begin());
}

std::vector<double> compute_advantages(AdvantageKind kind, std::span<const double> reward,
                                       std::span<const int64_t> group) {
  if (kind == AdvantageKind::kGiven) return {reward.begin(), reward.end()};
  assert(reward.size() == group.size());
  std::map<int64_t, std::vector<double>> rewards;
  for (size_t i = 0; i < reward.size(); ++i) rewards[group[i]].push_back(reward[i]);
  std::map<int64_t, Center> centers;
  for (const auto& [id, values] : rewards) centers[id] = center_of(kind, values);
  std::vector<double> advantage(reward.size());
  for (size_t i = 0; i < reward.size(); ++i) {
    const Center& c = centers[group[i]];
    advantage[i] = (reward[i] - c.mean) * c.scale;
  }
  return advantage;
}

}  // namespace cadre::optim
