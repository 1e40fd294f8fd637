// Sums and gradients of the balance losses on CUDA. Sums are made in double, over parts of fixed size and then
// over the parts in order.
#include "moe/cuda/entries.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::check;

constexpr int kThreads = 256;
constexpr int64_t kTokensOfPart = 64;

// parts (S, parts of a sequence, E)
__global__ void part_sums(const float* probs, int64_t tokens, int experts, int64_t seq_len, double* parts) {
  const int64_t s = blockIdx.y, begin = s * seq_len + blockIdx.x * kTokensOfPart;
  const int64_t end = min(min(tokens, (s + 1) * seq_len), begin + kTokensOfPart);
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    double sum = 0;
    for (int64_t t = begin; t < end; ++t) sum += double(probs[t * experts + e]);
    parts[(s * gridDim.x + blockIdx.x) * experts + e] = sum;
  }
}

__global__ void add_part_sums(const double* parts, int64_t count, int experts, int64_t sequences,
                              double* sums) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= sequences * experts) return;
  const double* from = parts + i / experts * count * experts + i % experts;
  double sum = 0;
#pragma unroll 8
  for (int64_t p = 0; p < count; ++p) sum += from[p * experts];
  sums[i] = sum;
}

template <class T>
void sequence_sums(Queue& queue, View<const float, 2> probs, int64_t seq_len, View<double, 2> sums) {
  const int64_t sequences = sums.dim(0), tokens = probs.dim(0);
  const int experts = int(sums.dim(1));
  if (sums.empty()) return;
  const cudaStream_t stream = stream_of(queue);
  // Not more parts than the tokens need: a sequence may be longer than what there is.
  const int64_t parts = blocks_for(std::min(seq_len, std::max<int64_t>(tokens, 1)), kTokensOfPart);
  auto* scratch = reinterpret_cast<double*>(scratch_of(queue, size_t(sequences * parts * experts) * 8));
  part_sums<<<dim3(unsigned(parts), unsigned(sequences)), kThreads, 0, stream>>>(probs.data(), tokens,
                                                                                 experts, seq_len, scratch);
  check(cudaGetLastError());
  add_part_sums<<<blocks_for(sequences * experts, kThreads), kThreads, 0, stream>>>(scratch, parts, experts,
                                                                                    sequences, sums.data());
  check(cudaGetLastError());
}

__global__ void sequence_grads_kernel(const double* rate, const int32_t* segment, int64_t seq_len,
                                      int64_t tokens, int experts, float* dprobs) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < tokens * experts;
       i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t t = i / experts;
    dprobs[i] = segment[t] < 0 ? 0.f : float(rate[t / seq_len * experts + i % experts]);
  }
}

template <class T>
void sequence_grads(Queue& queue, View<const double, 2> rate, View<const int32_t, 1> segment, int64_t seq_len,
                    View<float, 2> dprobs) {
  if (dprobs.empty()) return;
  sequence_grads_kernel<<<blocks_for(dprobs.size(), kThreads * 4), kThreads, 0, stream_of(queue)>>>(
      rate.data(), segment.data(), seq_len, dprobs.dim(0), int(dprobs.dim(1)), dprobs.data());
  check(cudaGetLastError());
}

// A block a sequence; counters in shared memory.
__global__ void sequence_rates_kernel(const int32_t* choice, const int32_t* segment, int64_t tokens, int k,
                                      int experts, int64_t seq_len, double scale, double sequences,
                                      double* rates) {
  extern __shared__ int32_t counts[];
  __shared__ int32_t real;
  for (int e = threadIdx.x; e < experts; e += kThreads) counts[e] = 0;
  if (threadIdx.x == 0) real = 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * seq_len, end = min(tokens, begin + seq_len);
  for (int64_t t = begin + threadIdx.x; t < end; t += kThreads) {
    if (segment[t] < 0) continue;
    atomicAdd(&real, 1);
    for (int j = 0; j < k; ++j) atomicAdd(&counts[choice[t * k + j]], 1);
  }
  __syncthreads();
  const double n = real, factor = real > 0 ? scale / (double(k) * n * n * sequences) : 0;
  for (int e = threadIdx.x; e < experts; e += kThreads)
    rates[int64_t(blockIdx.x) * experts + e] = counts[e] * factor;
}

void sequence_rates(Queue& queue, View<const int32_t, 2> choice, View<const int32_t, 1> segment,
                    int64_t seq_len, double scale, double sequences, View<double, 2> rates) {
  if (rates.empty()) return;
  const int experts = int(rates.dim(1));
  check_experts(experts);
  sequence_rates_kernel<<<unsigned(rates.dim(0)), kThreads, size_t(experts) * 4, stream_of(queue)>>>(
      choice.data(), segment.data(), choice.dim(0), int(choice.dim(1)), experts, seq_len, scale, sequences,
      rates.data());
  check(cudaGetLastError());
}

__global__ void add_counts_kernel(const int64_t* counts, int64_t n, double* sums) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < n) sums[i] += double(counts[i]);
}

void add_counts(Queue& queue, View<const int64_t, 1> counts, View<double, 1> sums) {
  add_counts_kernel<<<blocks_for(counts.size(), kThreads), kThreads, 0, stream_of(queue)>>>(
      counts.data(), counts.size(), sums.data());
  check(cudaGetLastError());
}

constexpr int kSumThreads = 1024;

// The sum of term(i) over a block of kSumThreads, in an order that depends on n alone.
template <class Term>
__device__ double block_sum(int64_t n, const Term& term) {
  __shared__ double sums[kSumThreads / 32];
  double own = 0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) own += term(i);
  own = warp_sum(own);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = own;
  __syncthreads();
  return warp_sum(sums[threadIdx.x % 32]);
}

__global__ void load_rates_kernel(const double* load, int64_t experts, double scale, double* rates) {
  const double sum = block_sum(experts, [&](int64_t e) { return load[e]; });
  for (int64_t e = threadIdx.x; e < experts; e += kSumThreads)
    rates[e] = sum > 0 ? scale * (load[e] / sum) : 0;
}

void load_rates(Queue& queue, View<const double, 1> load, double scale, View<double, 1> rates) {
  load_rates_kernel<<<1, kSumThreads, 0, stream_of(queue)>>>(load.data(), load.size(), scale, rates.data());
  check(cudaGetLastError());
}

__global__ void add_dot_kernel(const double* a, const double* b, int64_t n, double* to) {
  const double sum = block_sum(n, [&](int64_t i) { return a[i] * b[i]; });
  if (threadIdx.x == 0) *to += sum;
}

void add_dot(Queue& queue, View<const double, 2> a, View<const double, 2> b, View<double, 1> sum) {
  add_dot_kernel<<<1, kSumThreads, 0, stream_of(queue)>>>(a.data(), b.data(), a.size(), sum.data());
  check(cudaGetLastError());
}

__global__ void add_squares_kernel(const float* values, int64_t n, double scale, double* to) {
  const double sum = block_sum(n, [&](int64_t i) { return double(values[i]) * double(values[i]); });
  if (threadIdx.x == 0) *to += scale * sum;
}

template <class T>
void add_squares(Queue& queue, View<const float, 1> values, double scale, View<double, 1> sum) {
  add_squares_kernel<<<1, kSumThreads, 0, stream_of(queue)>>>(values.data(), values.size(), scale,
                                                              sum.data());
  check(cudaGetLastError());
}

}  // namespace

template <class T>
void add_balance_entries(MoeKernels<T>& table) {
  table.add_counts = add_counts;
  table.load_rates = load_rates;
  table.sequence_rates = sequence_rates;
  table.add_dot = add_dot;
  table.add_squares = add_squares<T>;
  table.sequence_sums = sequence_sums<T>;
  table.sequence_grads = sequence_grads<T>;
}
template void add_balance_entries(MoeKernels<float>&);
template void add_balance_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
