// Log-probabilities of target tokens from logits, and the gradient in place.
#include <algorithm>

#include "parallel/device/cpu/kernels_cpu.h"
#include "parallel/device/cpu/simd.h"

namespace cadre::device {

namespace {
// Float sums of 2^10 terms are kept short and added in double: a vocabulary of 10^5 would lose digits
// otherwise.
constexpr int64_t kSumBlock = 1024;

template <class W, class T>
W log_sum_exp(const T* __restrict row, int64_t width) {
  W largest = row[0];
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < width; ++i) largest = largest < row[i] ? W(row[i]) : largest;
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += kSumBlock) {
    const int64_t end = std::min(begin + kSumBlock, width);
    W sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += exp_of(W(row[i]) - largest);
    total += sum;
  }
  return W(largest + std::log(total));
}
}  // namespace

template <class T>
void CpuKernels<T>::log_prob(Queue& queue, View<const T, 2> logits, View<const int32_t, 1> target,
                             View<W, 1> logp, View<W, 1> lse) {
  const int64_t width = logits.dim(1);
  cpu(queue).parallel_for(logits.dim(0), row_grain(4 * width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      assert(target[row] >= 0 && target[row] < width);
      const T* in = logits.data() + row * width;
      lse.data()[row] = log_sum_exp<W>(in, width);
      logp.data()[row] = W(in[target[row]]) - lse[row];
    }
  });
}

template <class T>
void CpuKernels<T>::log_prob_backward(Queue& queue, View<T, 2> logits, View<const int32_t, 1> target,
                                      View<const W, 1> lse, View<const W, 1> dlogp) {
  const int64_t width = logits.dim(1);
  cpu(queue).parallel_for(logits.dim(0), row_grain(4 * width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* __restrict out = logits.data() + row * width;
      const W base = lse[row], grad = dlogp[row];
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) out[i] = -grad * exp_of(W(out[i]) - base);
      out[target[row]] += grad;
    }
  });
}

template <class T>
void CpuKernels<T>::log_prob_and_grad(Queue& queue, View<T, 2> logits, View<const int32_t, 1> target,
                                      View<const W, 1> dlogp, View<W, 1> logp, View<W, 1> lse) {
  log_prob(queue, logits, target, logp, lse);
  log_prob_backward(queue, logits, target, lse, dlogp);
}

template struct CpuKernels<float>;  // the members defined above
template struct CpuKernels<double>;

}  // namespace cadre::device
