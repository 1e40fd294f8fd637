// Calls of kernels as data: which arrays they take, how they are filled, which are outputs and how exact these
// must be. One case runs on the CPU's double table and on any other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "parallel/device/kernels.h"

namespace cadre::device {

// Stored as T, as wide_t<T>, as int32_t, or as double on every side.
enum class Kind { kNarrow, kWide, kInt, kDouble };

struct ArraySpec {
  Kind kind = Kind::kNarrow;
  int64_t size = 0;
  double scale = 1;   // of normal random values; 0 is poison (NaN), for what is only written
  double offset = 0;  // added to them
  bool output = false;
  // The error allowed, relative to the element and the root mean square of the array: `roundings` of the result
  // and of what it is added to, 4 sqrt(terms) of float, and `inner` of T where values inside are rounded to T.
  double terms = 0;
  int roundings = 1;
  double inner = 0;
  std::vector<int32_t> ints = {};    // of kInt
  std::vector<double> doubles = {};  // of kDouble
};

// The arrays of a call, of storage type X.
template <class X>
struct Arrays {
  std::vector<void*> data;
  template <int N>
  View<X, N> view(int i, std::array<int64_t, N> shape) const {
    return {static_cast<X*>(data[size_t(i)]), shape};
  }
  template <int N>
  View<wide_t<X>, N> wide(int i, std::array<int64_t, N> shape) const {
    return {static_cast<wide_t<X>*>(data[size_t(i)]), shape};
  }
  View<const int32_t, 1> ints(int i, int64_t n) const {
    return {static_cast<const int32_t*>(data[size_t(i)]), {n}};
  }
  View<int32_t, 1> ints_out(int i, int64_t n) const { return {static_cast<int32_t*>(data[size_t(i)]), {n}}; }
  View<const double, 1> doubles(int i, int64_t n) const {
    return {static_cast<const double*>(data[size_t(i)]), {n}};
  }
};

template <class X>
using Call = std::function<void(const DeviceKernels<X>&, Queue&, const Arrays<X>&)>;

template <class T>
struct KernelCase {
  std::string entry;  // of DeviceKernels
  std::string shape;  // for messages
  std::vector<ArraySpec> arrays;
  Call<double> reference;
  Call<T> call;
};

// Every entry of the table at odd and even sizes.
template <class T>
std::vector<KernelCase<T>> kernel_cases();
// Of these the kernels of generation.
template <class T>
std::vector<KernelCase<T>> generation_cases();

}  // namespace cadre::device
