#include "data/mixers/simplex.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>

namespace cadre::data {
namespace {

double sum_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum;
}

double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

// The root of a rising function with f(lo) <= 0 <= f(hi), to the last bit.
template <class F>
double bisect(double lo, double hi, const F& f) {
  for (;;) {
    const double middle = lo + (hi - lo) / 2;
    if (middle <= lo || middle >= hi) return middle;
    (f(middle) < 0 ? lo : hi) = middle;
  }
}

// Rounding leaves the sum a few units off 1; what is inside its bounds takes the rest.
std::vector<double> settle(std::vector<double> w, const Bounds& bounds) {
  for (int round = 0; round < 3; ++round) {
    const double rest = 1 - sum_of(w);
    const auto largest = std::max_element(w.begin(), w.end());
    const size_t k = size_t(largest - w.begin());
    w[k] = std::clamp(w[k] + rest, bounds.lo[k], std::max(bounds.hi[k], w[k]));
  }
  return w;
}

}  // namespace

Bounds text_bounds(const std::vector<int64_t>& domain_tokens) {
  Bounds bounds;
  for (const int64_t tokens : domain_tokens) {
    bounds.lo.push_back(0);
    bounds.hi.push_back(tokens > 0 ? 1 : 0);
  }
  return bounds;
}

std::vector<double> scale_into(const std::vector<double>& w, const Bounds& bounds) {
  std::vector<double> out(w.size());
  const auto excess = [&](double log_c) {
    const double c = std::exp(log_c);
    for (size_t k = 0; k < w.size(); ++k) out[k] = std::clamp(c * w[k], bounds.lo[k], bounds.hi[k]);
    return sum_of(out) - 1;
  };
  excess(bisect(-100, 100, excess));
  return settle(std::move(out), bounds);
}

std::vector<double> project_onto(const std::vector<double>& w, const Bounds& bounds) {
  std::vector<double> out(w.size());
  const auto excess = [&](double c) {
    for (size_t k = 0; k < w.size(); ++k) out[k] = std::clamp(w[k] + c, bounds.lo[k], bounds.hi[k]);
    return sum_of(out) - 1;
  };
  double reach = 1;
  for (const double x : w) reach = std::max(reach, 2 + 2 * std::abs(x));
  excess(bisect(-reach, reach, excess));
  return settle(std::move(out), bounds);
}

std::vector<double> softmax(const std::vector<double>& logits, const std::vector<bool>& active) {
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (size_t k = 0; k < logits.size(); ++k) most = active[k] ? std::max(most, logits[k]) : most;
  std::vector<double> out(logits.size(), 0.0);
  for (size_t k = 0; k < logits.size(); ++k) sum += out[k] = active[k] ? std::exp(logits[k] - most) : 0;
  for (double& x : out) x /= sum;
  return out;
}

std::vector<double> minimise_on_simplex(const Objective& f, const Bounds& bounds, std::vector<double> w,
                                        int iterations) {
  w = project_onto(w, bounds);
  std::vector<double> gradient(w.size()), unused(w.size()), next(w.size());
  double value = f(w, gradient), step = 1;
  for (int i = 0; i < iterations; ++i) {
    bool moved = false;
    for (step *= 2; step > 1e-18; step /= 2) {
      for (size_t k = 0; k < w.size(); ++k) next[k] = w[k] - step * gradient[k];
      next = project_onto(next, bounds);
      double along = 0;
      for (size_t k = 0; k < w.size(); ++k) along += gradient[k] * (next[k] - w[k]);
      const double there = f(next, unused);
      if (there < value && there <= value + 1e-4 * along) {
        moved = true;
        break;
      }
    }
    if (!moved) break;
    w = next;
    value = f(w, gradient);
  }
  return w;
}

std::vector<double> minimise_smooth(const Objective& f, std::vector<double> x, int iterations) {
  struct Pair {
    std::vector<double> s, y;
    double rho;
  };
  std::deque<Pair> pairs;
  const size_t n = x.size();
  std::vector<double> gradient(n), next(n), next_gradient(n);
  double value = f(x, gradient);
  for (int i = 0; i < iterations && std::isfinite(value); ++i) {
    std::vector<double> direction = gradient, alpha(pairs.size());
    for (size_t p = pairs.size(); p-- > 0;) {
      alpha[p] = pairs[p].rho * dot(pairs[p].s, direction);
      for (size_t j = 0; j < n; ++j) direction[j] -= alpha[p] * pairs[p].y[j];
    }
    if (!pairs.empty()) {
      const double scale = 1 / (pairs.back().rho * dot(pairs.back().y, pairs.back().y));
      for (double& d : direction) d *= scale;
    }
    for (size_t p = 0; p < pairs.size(); ++p) {
      const double beta = pairs[p].rho * dot(pairs[p].y, direction);
      for (size_t j = 0; j < n; ++j) direction[j] += (alpha[p] - beta) * pairs[p].s[j];
    }
    const double slope = -dot(direction, gradient);
    if (!(slope < 0)) break;
    bool moved = false;
    for (double step = pairs.empty() ? std::min(1.0, 1 / std::sqrt(-slope)) : 1; step > 1e-14; step /= 2) {
      for (size_t j = 0; j < n; ++j) next[j] = x[j] - step * direction[j];
      const double there = f(next, next_gradient);
      if (std::isfinite(there) && there <= value + 1e-4 * step * slope && there < value) {
        value = there;
        moved = true;
        break;
      }
    }
    if (!moved) break;
    Pair pair{std::vector<double>(n), std::vector<double>(n), 0};
    for (size_t j = 0; j < n; ++j) {
      pair.s[j] = next[j] - x[j];
      pair.y[j] = next_gradient[j] - gradient[j];
    }
    const double curvature = dot(pair.s, pair.y);
    x = next;
    gradient = next_gradient;
    if (curvature <= 1e-12 * std::sqrt(dot(pair.s, pair.s) * dot(pair.y, pair.y))) continue;
    pair.rho = 1 / curvature;
    pairs.push_back(std::move(pair));
    if (pairs.size() > 10) pairs.pop_front();
  }
  return x;
}

}  // namespace cadre::data
