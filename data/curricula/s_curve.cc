#include "data/curricula/s_curve.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

double log1p_exp(double x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

// s(u) = (sigma(c (u - u0)) - sigma(-c u0)) / (sigma(c (1 - u0)) - sigma(-c u0)). With sigma(x) - sigma(y) = sigma(x)
// sigma(-y) (1 - e^(y - x)) the common factor goes and nothing cancels, in logarithms also for u0 far beyond 1.
double curve(double c, double u0, double u) {
  if (u <= 0) return 0;
  return std::exp(log1p_exp(-c * (1 - u0)) - log1p_exp(-c * (u - u0))) * std::expm1(-c * u) / std::expm1(-c);
}

// Mean of s over [0, 1], by Simpson's rule: s is smooth, with a scale of 1 / c.
double mean(double c, double u0) {
  const int n = 2 * int(std::ceil(std::max(200.0, 40 * c)));
  double sum = curve(c, u0, 0) + curve(c, u0, 1);
  for (int i = 1; i < n; ++i) sum += (i % 2 == 1 ? 4 : 2) * curve(c, u0, double(i) / n);
  return sum / (3 * n);
}

}  // namespace

std::pair<double, double> feasible_range(const SCurveConfig& config) {
  const double c = config.steepness, span = config.high - config.low;
  const double m = 1 / c - 1 / std::expm1(c);
  return {config.low + span * m, config.low + span * (1 - m)};
}

bool feasible(const SCurveConfig& config, double q) {
  const auto [least, most] = feasible_range(config);
  return q > least && q < most;
}

SCurve::SCurve(const SCurveConfig& config, double q) : config_(config) {
  require(feasible(config, q), ExitCode::kUsage, "an S-curve from {} to {} cannot have the mean {}",
          config.low, config.high, q);
  const double c = config.steepness, target = (q - config.low) / (config.high - config.low);
  mirrored_ = target > 0.5;
  const double wanted = mirrored_ ? 1 - target : target;  // at most 1/2, so that u0 >= 1/2
  double lo = 0.5, hi = 1;
  while (mean(c, hi) > wanted) hi = 0.5 + 2 * (hi - 0.5);
  for (int i = 0; i < 100; ++i) {
    const double x = (lo + hi) / 2;
    (mean(c, x) > wanted ? lo : hi) = x;
  }
  middle_ = (lo + hi) / 2;
}

double SCurve::stretched(double u) const {
  const double c = config_.steepness;
  return mirrored_ ? 1 - curve(c, middle_, 1 - u) : curve(c, middle_, u);
}

double SCurve::at(double u) const {
  return config_.low + (config_.high - config_.low) * stretched(std::clamp(u, 0.0, 1.0));
}

}  // namespace cadre::data
