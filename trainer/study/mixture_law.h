// From losses of runs on many mixes to a mix: random mixes, a law for each target, and the mix that it proposes.
#pragma once

#include <cstdint>
#include <vector>

namespace cadre::study {

using Mix = std::vector<double>;  // (K) shares, sum 1

struct MixDraw {
  int64_t count = 32;
  uint64_t seed = 1;
  // Dirichlet(s q), q ~ prior^power, s spread evenly in its logarithm over [low, high] (RegMix, Liu et al. 2024,
  // arXiv 2407.01492). Large s: near q; small s: near the corners.
  double low = 0.1, high = 5, power = 0.5;
  double max_ratio = 15;  // draws with a share above this times its prior are drawn again
  double least = 2e-4;    // smaller shares become 0
};
// Different mixes, a function of the draw and the prior alone. Throws Error(kUsage) when they cannot be found.
std::vector<Mix> draw_mixes(const MixDraw& draw, const Mix& prior);

// Loss of one target as a function of the mix: floor + exp(slope . w) (Olmix, arXiv 2602.12237; the form goes back to
// Ye et al. 2024, arXiv 2403.16952).
struct LogLinearLaw {
  double floor = 0;
  std::vector<double> slope;  // (K)
  double operator()(const Mix& w) const;
};
// Least squares over the mixes: from several floors, a linear fit of log(loss - floor), then all parameters together
// by L-BFGS; the best is taken. Losses must be above 0.
LogLinearLaw fit_law(const std::vector<Mix>& mixes, const std::vector<double>& losses);
// Predictions for each mix by laws that were fitted without it, in `folds` parts.
std::vector<double> cross_validate(const std::vector<Mix>& mixes, const std::vector<double>& losses,
                                   int folds);

// min over w of mean_i exp(slope_i . w) + kl * KL(w || prior), w_k <= cap_k: convex, so this is the minimum (Olmix).
Mix propose_convex(const std::vector<LogLinearLaw>& laws, const Mix& prior, const std::vector<double>& cap,
                   double kl);
double convex_objective(const std::vector<LogLinearLaw>& laws, const Mix& prior, double kl, const Mix& w);
// The mean of the `best` of `draws` mixes from Dirichlet(prior) by the laws' mean loss, within the caps (RegMix's search;
// its regression by trees is left to the law here).
Mix propose_by_search(const std::vector<LogLinearLaw>& laws, const Mix& prior, const std::vector<double>& cap,
                      int64_t draws, int64_t best, uint64_t seed);

}  // namespace cadre::study
