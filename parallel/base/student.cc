#include "parallel/base/student.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace cadre::base {

double student_t_cdf(double x, double df) {
  df = std::min(df, 1e7);  // the normal distribution from there on; lgamma's difference would lose its digits
  // With t = sqrt(df) tan(angle) the density is cos(angle)^(df - 1), smooth and bounded for df >= 1. Simpson's rule over
  // all of [0, angle]; no further than where nothing is left, so that the pieces stay finer than a narrow density.
  const double angle = std::atan(std::min(std::abs(x), 60.0 * std::max(1.0, 100.0 / df)) / std::sqrt(df));
  constexpr int kPieces = 1000;
  const double h = angle / kPieces;
  double sum = 0;
  for (int i = 0; i <= kPieces; ++i) {
    const double weight = i == 0 || i == kPieces ? 1 : i % 2 == 1 ? 4 : 2;
    sum += weight * std::pow(std::cos(i * h), df - 1);
  }
  const double scale =
      std::exp(std::lgamma((df + 1) / 2) - std::lgamma(df / 2)) / std::sqrt(std::numbers::pi);
  const double half = std::min(0.5, scale * sum * h / 3);
  return x < 0 ? 0.5 - half : 0.5 + half;
}

}  // namespace cadre::base
