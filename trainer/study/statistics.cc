#include "trainer/study/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "parallel/base/rng.h"
#include "parallel/base/student.h"

namespace cadre::study {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double variance_of(std::span<const double> v) {
  const double middle = mean(v);
  double sum = 0;
  for (const double x : v) sum += (x - middle) * (x - middle);
  return sum / double(v.size() - 1);
}

}  // namespace

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

double student_t95(double df) {
  double low = 0, high = 16;  // 12.7 for one degree of freedom
  for (int i = 0; i < 45; ++i) {
    const double middle = (low + high) / 2;
    (base::student_t_cdf(middle, df) < 0.975 ? low : high) = middle;
  }
  return (low + high) / 2;
}

Summary summarise(std::span<const double> values) {
  const auto n = int64_t(values.size());
  if (n == 0) return {0, kNan, kNan, kNan};
  if (n == 1) return {1, values[0], kNan, kNan};
  const double sd = std::sqrt(variance_of(values));
  return {n, mean(values), sd, student_t95(double(n - 1)) * sd / std::sqrt(double(n))};
}

std::vector<double> ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> out(values.size());
  for (size_t i = 0, end; i < order.size(); i = end) {
    for (end = i; end < order.size() && values[order[end]] == values[order[i]];) ++end;
    for (size_t j = i; j < end; ++j) out[order[j]] = double(i + 1 + end) / 2;
  }
  return out;
}

double pearson(std::span<const double> x, std::span<const double> y) {
  if (x.size() != y.size() || x.size() < 3) return kNan;
  const double mx = mean(x), my = mean(y);
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mx) * (x[i] - mx);
    yy += (y[i] - my) * (y[i] - my);
    xy += (x[i] - mx) * (y[i] - my);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : kNan;
}

double spearman(std::span<const double> x, std::span<const double> y) {
  return pearson(ranks(x), ranks(y));
}

Interval bootstrap95(size_t n, int resamples, uint64_t seed,
                     const std::function<double(std::span<const size_t>)>& statistic) {
  const base::Philox random(base::mix(base::hash_name("bootstrap"), seed));
  std::vector<size_t> sample(n);
  std::vector<double> values;
  for (int r = 0; r < resamples; ++r) {
    for (size_t i = 0; i < n; ++i) sample[i] = size_t(random.uniform(i, uint64_t(r)) * double(n));
    const double value = statistic(sample);
    if (!std::isnan(value)) values.push_back(value);
  }
  if (values.size() < 2) return {kNan, kNan};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) { return values[size_t(share * double(values.size() - 1) + 0.5)]; };
  return {at(0.025), at(0.975)};
}

double noise_ceiling(const std::vector<std::vector<double>>& outcomes) {
  if (outcomes.size() < 2 || outcomes[0].size() < 2) return kNan;
  std::vector<double> means;
  double within = 0;
  for (const std::vector<double>& seeds : outcomes) {
    means.push_back(mean(seeds));
    within += variance_of(seeds) / double(outcomes.size());
  }
  const double between = variance_of(means);
  if (!(between > 0)) return kNan;
  return std::sqrt(std::max(0.0, 1 - within / (double(outcomes[0].size()) * between)));
}

}  // namespace cadre::study
