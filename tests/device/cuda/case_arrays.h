// Arrays of a case on the host, and how far a result is off.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/bf16.h"
#include "tests/device/cuda/kernel_cases.h"

namespace cadre::device {

inline size_t bytes_of(const ArraySpec& spec, size_t narrow, size_t wide) {
  const size_t sizes[] = {narrow, wide, sizeof(int32_t), sizeof(double)};
  return size_t(spec.size) * sizes[int(spec.kind)];
}

// The arrays of a case in host memory, element type X; the random numbers are those that T can hold.
template <class X, class T>
std::vector<std::vector<std::byte>> host_arrays(const std::vector<ArraySpec>& specs) {
  std::vector<std::vector<std::byte>> result;
  for (size_t a = 0; a < specs.size(); ++a) {
    const ArraySpec& spec = specs[a];
    std::vector<std::byte> memory(bytes_of(spec, sizeof(X), sizeof(wide_t<X>)));
    const base::Philox rng(base::mix(a, 9));
    for (int64_t i = 0; i < spec.size; ++i) {
      const double value =
          spec.scale == 0 ? std::nan("") : spec.offset + spec.scale * rng.normal(uint64_t(i));
      if (spec.kind == Kind::kInt) {
        reinterpret_cast<int32_t*>(memory.data())[i] = spec.ints[size_t(i)];
      } else if (spec.kind == Kind::kDouble) {
        reinterpret_cast<double*>(memory.data())[i] = spec.doubles[size_t(i)];
      } else if (spec.kind == Kind::kWide) {
        reinterpret_cast<wide_t<X>*>(memory.data())[i] = wide_t<X>(wide_t<T>(value));
      } else {
        reinterpret_cast<X*>(memory.data())[i] = X(double(T(value)));
      }
    }
    result.push_back(std::move(memory));
  }
  return result;
}

template <class X>
double element(const std::vector<std::byte>& memory, int64_t i) {
  return double(reinterpret_cast<const X*>(memory.data())[i]);
}

// Worst error over its bound, of elements and of the array's norm; below 1 is right.
template <class T>
double worst_ratio(const ArraySpec& spec, const std::vector<std::byte>& exact,
                   const std::vector<std::byte>& found) {
  const bool wide = spec.kind == Kind::kWide;
  const double half_float = 0x1p-24, half = !wide && std::is_same_v<T, bf16> ? 0x1p-8 : half_float;
  double squares = 0, worst = 0, errors = 0;
  for (int64_t i = 0; i < spec.size; ++i) squares += std::pow(element<double>(exact, i), 2);
  // The numbers that go in are about 1: a sum of them that happens to be 0 has their errors all the same.
  const double typical = std::max(0.3, std::sqrt(squares / double(std::max<int64_t>(spec.size, 1))));
  for (int64_t i = 0; i < spec.size; ++i) {
    const double x = element<double>(exact, i),
                 y = wide ? element<wide_t<T>>(found, i) : element<T>(found, i);
    const double scale = typical + std::abs(x);
    const double bound = 1.01 * half * (std::abs(x) + (spec.roundings - 1) * 4 * scale + spec.inner * scale) +
                         4 * half_float * std::sqrt(spec.terms) * scale;
    const double ratio = x == y ? 0 : std::abs(x - y) / bound;
    if (!(ratio <= worst)) worst = ratio;  // NaN counts as the worst
    errors += (x - y) * (x - y);
  }
  const double norm_bound =
      half * (spec.roundings + (spec.inner > 0 ? 1 : 0)) + half_float * std::sqrt(spec.terms);
  const double norm_ratio =
      std::sqrt(errors / double(std::max<int64_t>(spec.size, 1))) / (typical * norm_bound);
  return norm_ratio <= worst ? worst : norm_ratio;
}

}  // namespace cadre::device
