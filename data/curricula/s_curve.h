// The share of "high" documents over a domain's progress: an S-curve that uses every document exactly once.
#pragma once

#include <utility>

namespace cadre::data {

struct SCurveConfig {
  double low = 0.2, high = 0.8;  // share at the beginning and at the end
  double steepness = 10;         // c
};

// p(u) = low + (high - low) s(u), s the logistic curve sigma(c (u - u0)) stretched to s(0) = 0 and s(1) = 1, with the
// u0 at which the mean of p over [0, 1] is q, the share of high text: then the text of both kinds lasts to the end.
// Feasible when (q - low) / (high - low) lies inside (m, 1 - m), m = 1/c - 1/(e^c - 1).
std::pair<double, double> feasible_range(const SCurveConfig& config);  // of q, exclusive
bool feasible(const SCurveConfig& config, double q);

class SCurve {
 public:
  SCurve(const SCurveConfig& config, double q);  // feasible
  double at(double u) const;

 private:
  double stretched(double u) const;
  SCurveConfig config_;
  double middle_ = 0.5;    // u0, of the mirrored curve when mirrored_
  bool mirrored_ = false;  // solved as 1 - s(1 - u): no cancellation for u0 below 0
};

}  // namespace cadre::data
