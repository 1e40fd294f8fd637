// Small owned tensors for tests: random values from the counter-based generator, and views to pass to
// kernels.
#pragma once

#include <array>
#include <cmath>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/view.h"

namespace cadre::device {

template <class T, int N>
struct Tensor {
  explicit Tensor(std::array<int64_t, N> s) : shape(s), data(View<T, N>(nullptr, s).size()) {}
  // Standard normal times scale; a function of seed alone.
  Tensor(std::array<int64_t, N> s, uint64_t seed, double scale = 1) : Tensor(s) {
    const base::Philox rng(base::mix(seed, 77));
    for (size_t i = 0; i < data.size(); ++i) data[i] = T(scale * rng.normal(i));
  }
  template <class U>
  static Tensor from(const Tensor<U, N>& other) {
    Tensor result(other.shape);
    for (size_t i = 0; i < result.data.size(); ++i) result.data[i] = T(other.data[i]);
    return result;
  }
  View<T, N> view() { return {data.data(), shape}; }
  View<const T, N> view() const { return {data.data(), shape}; }
  operator View<T, N>() { return view(); }              // NOLINT: implicit on purpose
  operator View<const T, N>() const { return view(); }  // NOLINT: implicit on purpose
  T& operator[](int64_t i) { return data[i]; }
  const T& operator[](int64_t i) const { return data[i]; }
  int64_t size() const { return int64_t(data.size()); }

  std::array<int64_t, N> shape;
  std::vector<T> data;
};

template <class T, int N>
double dot(const Tensor<T, N>& a, const Tensor<T, N>& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

template <class T, class U, int N>
double max_difference(const Tensor<T, N>& a, const Tensor<U, N>& b) {
  double worst = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(double(a[i]) - double(b[i]));
    if (!(d <= worst)) worst = d;  // NaN counts as the worst
  }
  return worst;
}

// d loss() / d x by the central difference.
template <class Loss>
double central_difference(double& x, const Loss& loss, double step = 1e-5) {
  const double old = x;
  x = old + step;
  const double above = loss();
  x = old - step;
  const double below = loss();
  x = old;
  return (above - below) / (2 * step);
}

}  // namespace cadre::device
