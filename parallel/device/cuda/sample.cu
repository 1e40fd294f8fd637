// Tokens drawn from rows of logits: how rows are shared out over blocks. What a block does is in sample_row.cuh.
#include <algorithm>
#include <stdexcept>

#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/sample_row.cuh"

namespace cadre::device::cuda {
namespace {

using namespace sampling;

template <class T>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(int width, const T* logits, double temperature, int top_k, double top_p,
                  const double* uniform, int32_t* __restrict__ token, float* __restrict__ logp) {
  __shared__ double stretch_sum[kMostStretches];
  wait_for_kernel_before();
  Row<T> row{logits + int64_t(blockIdx.x) * width, width, 0, temperature};
  const int first = find_largest(row), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (temperature == 0) {
    if (threadIdx.x == 0) token[blockIdx.x] = first, logp[blockIdx.x] = 0;
    return;
  }
  Cut cut;
  if (top_k > 0 && top_k < width) cut = cut_at(row, cut, double(top_k), [](float) { return 1.0; });
  if (top_p < 1) {
    const double all = row.sum([&](float x, int i) { return kept_weight(row, cut, x, i); });
    cut = cut_at(row, cut, fmax(top_p * all, DBL_MIN), [&](float x) { return row.weight(x); });
  }
  for (int s = warp; s < stretches_of(width); s += kWarps) {
    const double sum = sum_of_stretch(row, cut, s);
    if (lane == 0) stretch_sum[s] = sum;
  }
  __syncthreads();
  draw(row, cut, first, stretch_sum, uniform[blockIdx.x], token + blockIdx.x, logp + blockIdx.x);
}

// Without a cut, few rows leave most of a GPU idle when a block takes one, and a row has 50,000 exponentials in double:
// some blocks share its stretches, and another one draws. The sums of stretches, and so the tokens, are the same.
struct Weighed {
  double* stretch_sum;  // (rows, stretches)
  float* largest;       // (rows)
  int* first;           // (rows)
};
constexpr int kParts = 4, kFewRows = 128;

template <class T>
__global__ void __launch_bounds__(kThreads)
    weigh_kernel(int width, const T* logits, double temperature, Weighed out) {
  wait_for_kernel_before();
  let_next_come();
  Row<T> row{logits + int64_t(blockIdx.x) * width, width, 0, temperature};
  const int first = find_largest(row), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int stretches = stretches_of(width);
  if (blockIdx.y == 0 && threadIdx.x == 0)
    out.largest[blockIdx.x] = row.largest, out.first[blockIdx.x] = first;
  for (int s = int(blockIdx.y) * kWarps + warp; s < stretches; s += kParts * kWarps) {
    const double sum = sum_of_stretch(row, Cut{}, s);
    if (lane == 0) out.stretch_sum[int64_t(blockIdx.x) * stretches + s] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    draw_kernel(int width, const T* logits, double temperature, Weighed in, const double* uniform,
                int32_t* __restrict__ token, float* __restrict__ logp) {
  __shared__ double stretch_sum[kMostStretches];
  wait_for_kernel_before();
  const int stretches = stretches_of(width);
  for (int s = int(threadIdx.x); s < stretches; s += kThreads)
    stretch_sum[s] = in.stretch_sum[int64_t(blockIdx.x) * stretches + s];
  __syncthreads();
  const Row<T> row{logits + int64_t(blockIdx.x) * width, width, in.largest[blockIdx.x], temperature};
  draw(row, Cut{}, in.first[blockIdx.x], stretch_sum, uniform[blockIdx.x], token + blockIdx.x,
       logp + blockIdx.x);
}

}  // namespace

template <class T>
void CudaKernels<T>::sample(Queue& queue, View<const T, 2> logits, SampleShape shape,
                            View<const double, 1> uniform, View<int32_t, 1> token, View<W, 1> logp) {
  if (logits.size() == 0) return;
  const int64_t width = logits.dim(1);
  if (width > kStretch * kMostStretches)
    throw std::invalid_argument("sampling on CUDA takes at most 2^20 tokens of vocabulary");
  using N = native_t<T>;
  const int64_t rows = logits.dim(0), stretches = ceil_div(width, kStretch);
  const bool cuts = (shape.top_k > 0 && shape.top_k < width) || shape.top_p < 1;
  if (rows <= kFewRows && stretches > kWarps && shape.temperature != 0 && !cuts) {
    auto* const sums = scratch<double>(queue, rows * (stretches + 1));
    auto* const largest = reinterpret_cast<float*>(sums + rows * stretches);
    const Weighed weighed{sums, largest, reinterpret_cast<int*>(largest + rows)};
    launch_behind(stream(queue), weigh_kernel<N>, dim3(unsigned(rows), kParts), kThreads, int(width),
                  raw(logits), shape.temperature, weighed);
    return launch_behind(stream(queue), draw_kernel<N>, unsigned(rows), kThreads, int(width), raw(logits),
                         shape.temperature, weighed, uniform.data(), token.data(), logp.data());
  }
  launch_behind(stream(queue), sample_kernel<N>, unsigned(rows), kThreads, int(width), raw(logits),
                shape.temperature, int(std::min(shape.top_k, width)), shape.top_p, uniform.data(),
                token.data(), logp.data());
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
