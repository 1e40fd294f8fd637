// Tokens drawn from rows of logits. Weights are exp((l - max) / temperature) in double; the cut of top-k and top-p is
// found on a sorted copy of the row, and the draw walks the row in order of ids, so that without a cut nothing is sorted.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {
namespace {

// The last token of the cut, in the order (logit falling, id rising): those behind it have probability 0.
struct Cut {
  double logit;
  int64_t id;
  bool keeps(double other, int64_t other_id) const {
    return other > logit || (other == logit && other_id <= id);
  }
};

template <class T>
Cut find_cut(const T* row, int64_t width, const SampleShape& shape) {
  const int64_t most = shape.top_k > 0 ? std::min(shape.top_k, width) : width;
  std::vector<int32_t> order(static_cast<size_t>(width));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + most, order.end(),
                    [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
  const double top = double(row[order[0]]);
  const auto weight = [&](int64_t i) {
    return std::exp((double(row[order[size_t(i)]]) - top) / shape.temperature);
  };
  int64_t kept = most;
  if (shape.top_p < 1) {
    double sum = 0, mass = 0;
    for (int64_t i = 0; i < most; ++i) sum += weight(i);
    for (kept = 0; kept < most && (kept == 0 || mass < shape.top_p * sum); ++kept) mass += weight(kept);
  }
  const int32_t last = order[size_t(kept - 1)];
  return {double(row[last]), last};
}

struct Drawn {
  int32_t token;
  double logp;
};

template <class T>
Drawn draw(const T* row, int64_t width, const SampleShape& shape, double uniform) {
  const int64_t top = std::max_element(row, row + width) - row;
  if (shape.temperature == 0) return {int32_t(top), 0};
  const double largest = double(row[top]);
  const bool whole = (shape.top_k == 0 || shape.top_k >= width) && shape.top_p >= 1;
  const Cut cut = whole ? Cut{-HUGE_VAL, width} : find_cut(row, width, shape);
  const auto weight = [&](int64_t i) {
    return cut.keeps(double(row[i]), i) ? std::exp((double(row[i]) - largest) / shape.temperature) : 0.0;
  };
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += weight(i);
  double left = uniform * sum;
  int64_t chosen = top;  // where rounding leaves nothing
  for (int64_t i = 0; i < width; ++i) {
    left -= weight(i);
    if (left >= 0) continue;
    chosen = i;
    break;
  }
  return {int32_t(chosen), (double(row[chosen]) - largest) / shape.temperature - std::log(sum)};
}

}  // namespace

template <class T>
void CpuKernels<T>::sample(Queue& queue, View<const T, 2> logits, SampleShape shape,
                           View<const double, 1> uniform, View<int32_t, 1> token, View<W, 1> logp) {
  const int64_t width = logits.dim(1);
  cpu(queue).parallel_for(logits.dim(0), row_grain(8 * width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const Drawn drawn = draw(logits.data() + row * width, width, shape, uniform[row]);
      token[row] = drawn.token;
      logp[row] = W(drawn.logp);
    }
  });
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
