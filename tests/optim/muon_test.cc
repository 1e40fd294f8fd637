// Muon's iteration against the singular values that it must give.
#include "optim/optimizers/muon.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "parallel/base/rng.h"

namespace cadre::optim {
namespace {

using device::View;

// For X = U S V^T the iteration must give U S' V^T with S' near 1: X^T X has then eigenvalues near 1. Checked
// without a decomposition: every unit vector's image must have a length within the quintic's band.
TEST(Muon, NewtonSchulzBringsSingularValuesNearOne) {
  device::CpuQueue queue(1);
  for (const auto& [rows_of_x, cols_of_x] : {std::pair<int64_t, int64_t>{6, 17}, {17, 6}, {9, 9}}) {
    const int64_t rows = rows_of_x, cols = cols_of_x;
    const int64_t side = std::min(rows, cols);
    std::vector<double> x(size_t(rows * cols)), next(x.size()), gram(size_t(side * side)), gram2(gram.size());
    // Diagonal with singular values from 1 down to 0.1 of the largest, hidden by two random reflections.
    for (int64_t i = 0; i < side; ++i) x[size_t(i * cols + i)] = 1.0 - 0.9 * double(i) / double(side);
    auto reflect = [&](int64_t n, bool left, uint64_t seed) {
      std::vector<double> u(size_t(n), 0.0);
      double norm = 0;
      for (int64_t i = 0; i < n; ++i)
        norm += std::pow(u[size_t(i)] = base::Philox(seed).normal(uint64_t(i)), 2);
      for (int64_t o = 0; o < (left ? cols : rows); ++o) {
        auto at = [&](int64_t i) -> double& {
          return left ? x[size_t(i * cols + o)] : x[size_t(o * cols + i)];
        };
        double dot = 0;
        for (int64_t i = 0; i < n; ++i) dot += u[size_t(i)] * at(i);
        for (int64_t i = 0; i < n; ++i) at(i) -= 2 * dot / norm * u[size_t(i)];
      }
    };
    reflect(rows, true, 1);
    reflect(cols, false, 2);
    newton_schulz<double>(queue, device::cpu_kernels<double>(), cpu_optim_kernels<double>(), 5,
                          View<double, 2>(x.data(), {rows, cols}), View<double, 2>(gram.data(), {side, side}),
                          View<double, 2>(gram2.data(), {side, side}),
                          View<double, 2>(next.data(), {rows, cols}));
    // Undo the reflections (each is its own inverse): what is left must be diagonal, with entries near 1.
    reflect(cols, false, 2);
    reflect(rows, true, 1);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const double value = x[size_t(i * cols + j)];
        if (i == j) {
          EXPECT_GT(value, 0.6);
          EXPECT_LT(value, 1.3);
        } else {
          EXPECT_NEAR(value, 0, 1e-9);
        }
      }
    }
  }
}

}  // namespace
}  // namespace cadre::optim
