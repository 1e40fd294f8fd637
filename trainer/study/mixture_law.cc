#include "trainer/study/mixture_law.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/mixers/simplex.h"
#include "parallel/base/errors.h"
#include "parallel/base/rng.h"

namespace cadre::study {
namespace {

// A gamma variate of the given shape from one stream of random numbers (Marsaglia & Tsang 2000).
double gamma(double shape, const base::Philox& random, uint64_t stream) {
  uint64_t next = 0;
  double boost = 1;
  if (shape < 1) {
    boost = std::pow(random.uniform(next++, stream) + 0x1p-54, 1 / shape);
    shape += 1;
  }
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = random.normal(next++, stream), v = std::pow(1 + c * x, 3),
                 u = random.uniform(next++, stream);
    if (v > 0 && std::log(u + 0x1p-54) < 0.5 * x * x + d - d * v + d * std::log(v)) return boost * d * v;
  }
}

Mix dirichlet(const std::vector<double>& alpha, const base::Philox& random, uint64_t draw) {
  Mix w;
  double sum = 0;
  for (size_t k = 0; k < alpha.size(); ++k) {
    w.push_back(alpha[k] > 0 ? gamma(alpha[k], random, base::mix(draw, k)) : 0);
    sum += w.back();
  }
  for (double& x : w) x = sum > 0 ? x / sum : 0;
  return w;
}

Mix scaled(Mix w) {
  const double sum = std::accumulate(w.begin(), w.end(), 0.0);
  for (double& x : w) x /= sum;
  return w;
}

// x with (M + ridge) x = y for a small symmetric positive M, by Gauss elimination.
std::vector<double> solve(std::vector<std::vector<double>> m, std::vector<double> y) {
  const size_t n = y.size();
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t r = i + 1; r < n; ++r) pivot = std::abs(m[r][i]) > std::abs(m[pivot][i]) ? r : pivot;
    std::swap(m[i], m[pivot]);
    std::swap(y[i], y[pivot]);
    for (size_t r = i + 1; r < n; ++r) {
      const double factor = m[r][i] / m[i][i];
      for (size_t c = i; c < n; ++c) m[r][c] -= factor * m[i][c];
      y[r] -= factor * y[i];
    }
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t c = i + 1; c < n; ++c) y[i] -= m[i][c] * y[c];
    y[i] /= m[i][i];
  }
  return y;
}

// Least squares of log(loss - floor) on the shares, held by a ridge where there are fewer mixes than domains.
std::vector<double> linear_start(const std::vector<Mix>& mixes, const std::vector<double>& losses,
                                 double floor) {
  const size_t domains = mixes[0].size();
  std::vector<std::vector<double>> m(domains, std::vector<double>(domains, 0.0));
  std::vector<double> y(domains, 0.0);
  for (size_t k = 0; k < domains; ++k) m[k][k] = 1e-6 * double(mixes.size());
  for (size_t i = 0; i < mixes.size(); ++i) {
    for (size_t k = 0; k < domains; ++k) {
      y[k] += mixes[i][k] * std::log(losses[i] - floor);
      for (size_t j = 0; j < domains; ++j) m[k][j] += mixes[i][k] * mixes[i][j];
    }
  }
  return solve(std::move(m), std::move(y));
}

double inner(const std::vector<double>& x, const std::vector<double>& y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
}

// x holds the slopes and then the floor's logarithm.
LogLinearLaw law_of(const std::vector<double>& x) {
  return {std::exp(x.back()), {x.begin(), x.end() - 1}};
}

double squared_error(const std::vector<Mix>& mixes, const std::vector<double>& losses,
                     const std::vector<double>& x, std::vector<double>& gradient) {
  const LogLinearLaw law = law_of(x);
  const double n = double(mixes.size());
  double sum = 0;
  std::fill(gradient.begin(), gradient.end(), 0.0);
  for (size_t i = 0; i < mixes.size(); ++i) {
    const double power = std::exp(inner(law.slope, mixes[i])), error = law.floor + power - losses[i];
    sum += error * error / n;
    for (size_t k = 0; k < law.slope.size(); ++k) gradient[k] += 2 * error * power * mixes[i][k] / n;
    gradient.back() += 2 * error * law.floor / n;
  }
  // Keeps slopes of domains that no mix tells apart from running away.
  for (size_t k = 0; k < law.slope.size(); ++k) {
    sum += 1e-9 * law.slope[k] * law.slope[k];
    gradient[k] += 2e-9 * law.slope[k];
  }
  return sum;
}

double kl_divergence(const Mix& w, const Mix& prior) {
  double sum = 0;
  for (size_t k = 0; k < w.size(); ++k) sum += w[k] > 0 ? w[k] * std::log(w[k] / prior[k]) : 0;
  return sum;
}

}  // namespace

std::vector<Mix> draw_mixes(const MixDraw& draw, const Mix& prior) {
  const base::Philox random(base::mix(base::hash_name("mixes"), draw.seed));
  Mix q;
  for (const double p : prior) q.push_back(p > 0 ? std::pow(p, draw.power) : 0);
  q = scaled(std::move(q));
  std::vector<Mix> mixes;
  const uint64_t most = 10000 * uint64_t(draw.count);
  for (uint64_t i = 0; int64_t(mixes.size()) < draw.count; ++i) {
    require(i < most, ExitCode::kUsage,
            "found {} of {} mixes whose shares are at most {} times the prior's; raise max_ratio",
            mixes.size(), draw.count, draw.max_ratio);
    const double at = draw.count > 1 ? double(mixes.size()) / double(draw.count - 1) : 0.5;
    const double s = draw.low * std::pow(draw.high / draw.low, at);
    std::vector<double> alpha;
    for (const double x : q) alpha.push_back(s * x);
    Mix w = dirichlet(alpha, random, i);
    bool fits = std::accumulate(w.begin(), w.end(), 0.0) > 0;
    for (size_t k = 0; k < w.size(); ++k) {
      fits = fits && w[k] <= draw.max_ratio * prior[k];
      if (w[k] < draw.least) w[k] = 0;
    }
    if (!fits) continue;
    w = scaled(std::move(w));
    if (std::find(mixes.begin(), mixes.end(), w) == mixes.end()) mixes.push_back(std::move(w));
  }
  return mixes;
}

double LogLinearLaw::operator()(const Mix& w) const {
  return floor + std::exp(inner(slope, w));
}

LogLinearLaw fit_law(const std::vector<Mix>& mixes, const std::vector<double>& losses) {
  const double least = *std::min_element(losses.begin(), losses.end());
  require(least > 0, ExitCode::kData, "a loss of {} cannot be fitted; expected numbers above 0", least);
  std::vector<double> best, gradient(mixes[0].size() + 1);
  double error = INFINITY;
  for (const double share : {1e-3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}) {
    std::vector<double> x = linear_start(mixes, losses, share * least);
    x.push_back(std::log(share * least));
    x = data::minimise_smooth([&](const std::vector<double>& at,
                                  std::vector<double>& g) { return squared_error(mixes, losses, at, g); },
                              std::move(x), 500);
    const double found = squared_error(mixes, losses, x, gradient);
    if (found >= error) continue;
    error = found;
    best = x;
  }
  return law_of(best);
}

std::vector<double> cross_validate(const std::vector<Mix>& mixes, const std::vector<double>& losses,
                                   int folds) {
  std::vector<double> predicted(mixes.size());
  for (int fold = 0; fold < folds; ++fold) {
    std::vector<Mix> kept;
    std::vector<double> known;
    for (size_t i = 0; i < mixes.size(); ++i) {
      if (int(i % size_t(folds)) == fold) continue;
      kept.push_back(mixes[i]);
      known.push_back(losses[i]);
    }
    if (kept.empty()) continue;
    const LogLinearLaw law = fit_law(kept, known);
    for (size_t i = size_t(fold); i < mixes.size(); i += size_t(folds)) predicted[i] = law(mixes[i]);
  }
  return predicted;
}

double convex_objective(const std::vector<LogLinearLaw>& laws, const Mix& prior, double kl, const Mix& w) {
  double sum = kl * kl_divergence(w, prior);
  for (const LogLinearLaw& law : laws) sum += std::exp(inner(law.slope, w)) / double(laws.size());
  return sum;
}

Mix propose_convex(const std::vector<LogLinearLaw>& laws, const Mix& prior, const std::vector<double>& cap,
                   double kl) {
  data::Bounds bounds;
  for (size_t k = 0; k < prior.size(); ++k) {
    bounds.hi.push_back(prior[k] > 0 ? std::min(1.0, cap[k]) : 0);
    // The divergence has an infinite slope at 0.
    bounds.lo.push_back(std::min(bounds.hi.back(), 1e-9));
  }
  require(std::accumulate(bounds.hi.begin(), bounds.hi.end(), 0.0) >= 1, ExitCode::kUsage,
          "the caps leave {} of the mix; raise swarm.max_epochs or swarm.max_share",
          std::accumulate(bounds.hi.begin(), bounds.hi.end(), 0.0));
  const auto f = [&](const std::vector<double>& w, std::vector<double>& gradient) {
    for (size_t k = 0; k < w.size(); ++k) gradient[k] = w[k] > 0 ? kl * (std::log(w[k] / prior[k]) + 1) : 0;
    for (const LogLinearLaw& law : laws) {
      const double power = std::exp(inner(law.slope, w)) / double(laws.size());
      for (size_t k = 0; k < w.size(); ++k) gradient[k] += power * law.slope[k];
    }
    return convex_objective(laws, prior, kl, w);
  };
  return data::minimise_on_simplex(f, bounds, prior);
}

Mix propose_by_search(const std::vector<LogLinearLaw>& laws, const Mix& prior, const std::vector<double>& cap,
                      int64_t draws, int64_t best, uint64_t seed) {
  const base::Philox random(base::mix(base::hash_name("search"), seed));
  std::vector<std::pair<double, Mix>> found;
  for (int64_t i = 0; i < draws; ++i) {
    Mix w = dirichlet(prior, random, uint64_t(i));
    bool fits = std::accumulate(w.begin(), w.end(), 0.0) > 0;
    for (size_t k = 0; k < w.size(); ++k) fits = fits && w[k] <= cap[k];
    if (!fits) continue;
    double loss = 0;
    for (const LogLinearLaw& law : laws) loss += law(w);
    found.emplace_back(loss, std::move(w));
  }
  require(int64_t(found.size()) >= best, ExitCode::kUsage,
          "the search found {} mixes within the caps, expected {}; raise swarm.max_epochs or swarm.max_share",
          found.size(), best);
  std::partial_sort(found.begin(), found.begin() + best, found.end());
  Mix mean(prior.size(), 0.0);
  for (int64_t i = 0; i < best; ++i) {
    for (size_t k = 0; k < mean.size(); ++k) mean[k] += found[size_t(i)].second[k] / double(best);
  }
  return mean;
}

}  // namespace cadre::study
