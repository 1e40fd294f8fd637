// The few statistics that studies and audits report. All in double; NaN where there is too little to say.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace cadre::study {

double mean(std::span<const double> values);

// Mean and sample standard deviation (n - 1), and the half width of the 95% interval of the mean by Student's t.
struct Summary {
  int64_t n = 0;
  double mean = 0, sd = 0, half95 = 0;
};
Summary summarise(std::span<const double> values);

// The x with P(|T| <= x) = 0.95 for Student's t with `df` >= 1 degrees of freedom.
double student_t95(double df);

// Ranks from 1; equal values share the mean of theirs.
std::vector<double> ranks(std::span<const double> values);
// Of pairs; NaN when either side does not vary or there are fewer than 3.
double pearson(std::span<const double> x, std::span<const double> y);
double spearman(std::span<const double> x, std::span<const double> y);

struct Interval {
  double low = 0, high = 0;
};
// Percentile bootstrap (Efron 1979): 95% interval of statistic(indices) over resamples of 0 .. n - 1 with
// replacement. Resamples are a function of the seed; those whose statistic is NaN are left out.
Interval bootstrap95(size_t n, int resamples, uint64_t seed,
                     const std::function<double(std::span<const size_t>)>& statistic);

// How well seed means of noisy outcomes could be predicted at best, as a correlation: outcomes[s] are the seeds'
// outcomes of subset s, the same number each. With s2_seed the mean variance over the seeds of one subset and s2_means
// the variance of the seed means over subsets, sqrt(1 - s2_seed / (seeds * s2_means)); 0 where noise explains all.
double noise_ceiling(const std::vector<std::vector<double>>& outcomes);

}  // namespace cadre::study
