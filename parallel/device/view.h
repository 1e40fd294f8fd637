// Non-owning, row-major, contiguous views of device memory, and the storage types of the kernels.
// Dimension letters are those of the README: T tokens, D model, H hidden (expert width), E experts, K top-k, V vocab.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <type_traits>

namespace cadre::device {

// The type in which reductions, router maths and log-probabilities are done for storage type T (bf16 -> float).
template <class T>
struct WideOf {
  using type = T;
};
template <class T>
using wide_t = typename WideOf<std::remove_const_t<T>>::type;

template <class T, int N>
class View {
 public:
  View() = default;
  View(T* data, std::array<int64_t, N> shape) : data_(data), shape_(shape) {}
  // View<float> converts to View<const float>.
  template <class U>
  requires(std::is_same_v<const U, T>) View(const View<U, N>& other)
      : data_(other.data()), shape_(other.shape()) {}  // NOLINT: implicit on purpose

  T* data() const { return data_; }
  const std::array<int64_t, N>& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t size() const {
    int64_t n = 1;
    for (int64_t s : shape_) n *= s;
    return n;
  }
  bool empty() const { return data_ == nullptr || size() == 0; }

  // Element of a 1-d view; sub-view (row) of a higher one.
  decltype(auto) operator[](int64_t i) const {
    assert(i >= 0 && i < shape_[0]);
    if constexpr (N == 1) {
      return static_cast<T&>(data_[i]);
    } else {
      std::array<int64_t, N - 1> rest;
      int64_t stride = 1;
      for (int d = 1; d < N; ++d) stride *= rest[d - 1] = shape_[d];
      return View<T, N - 1>(data_ + i * stride, rest);
    }
  }
  // The first `count` rows from `begin`.
  View rows(int64_t begin, int64_t count) const {
    assert(begin >= 0 && begin + count <= shape_[0]);
    int64_t stride = 1;
    for (int d = 1; d < N; ++d) stride *= shape_[d];
    auto shape = shape_;
    shape[0] = count;
    return View(data_ + begin * stride, shape);
  }
  // The same memory under another shape of the same size.
  template <int M>
  View<T, M> reshape(std::array<int64_t, M> shape) const {
    View<T, M> out(data_, shape);
    assert(out.size() == size());
    return out;
  }
  T* begin() const { return data_; }
  T* end() const { return data_ + size(); }

 private:
  T* data_ = nullptr;
  std::array<int64_t, N> shape_{};
};

}  // namespace cadre::device
