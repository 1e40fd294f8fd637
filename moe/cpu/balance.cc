// Sums and gradients of the balance losses on the CPU.
#include <algorithm>

#include "moe/cpu/entries.h"

namespace cadre::moe {
namespace {

using device::cpu;
using device::Queue;
using device::View;
using device::wide_t;

template <class T>
void sequence_sums(Queue& queue, View<const wide_t<T>, 2> probs, int64_t seq_len, View<double, 2> sums) {
  const int64_t tokens = probs.dim(0), experts = probs.dim(1);
  cpu(queue).parallel_for(sums.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      double* out = sums[s].data();
      std::fill_n(out, experts, 0.0);
      for (int64_t t = s * seq_len; t < std::min(tokens, (s + 1) * seq_len); ++t)
        for (int64_t e = 0; e < experts; ++e) out[e] += double(probs.data()[t * experts + e]);
    }
  });
}

template <class T>
void sequence_grads(Queue& queue, View<const double, 2> rate, View<const int32_t, 1> segment, int64_t seq_len,
                    View<wide_t<T>, 2> dprobs) {
  using W = wide_t<T>;
  const int64_t experts = dprobs.dim(1);
  cpu(queue).parallel_for(dprobs.dim(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const double* from = rate[t / seq_len].data();
      for (int64_t e = 0; e < experts; ++e) dprobs[t][e] = segment[t] < 0 ? W(0) : W(from[e]);
    }
  });
}

void add_counts(Queue&, View<const int64_t, 1> counts, View<double, 1> sums) {
  for (int64_t i = 0; i < counts.size(); ++i) sums[i] += double(counts[i]);
}

void load_rates(Queue&, View<const double, 1> load, double scale, View<double, 1> rates) {
  double sum = 0;
  for (const double x : load) sum += x;
  for (int64_t e = 0; e < load.size(); ++e) rates[e] = scale * (sum > 0 ? load[e] / sum : 0);
}

void sequence_rates(Queue& queue, View<const int32_t, 2> choice, View<const int32_t, 1> segment,
                    int64_t seq_len, double scale, double sequences, View<double, 2> rates) {
  const int64_t tokens = choice.dim(0), k = choice.dim(1);
  cpu(queue).parallel_for(rates.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      std::fill(rates[s].begin(), rates[s].end(), 0.0);
      double real = 0;
      for (int64_t t = s * seq_len; t < std::min(tokens, (s + 1) * seq_len); ++t) {
        if (segment[t] < 0) continue;
        ++real;
        for (const int32_t e : choice[t]) rates[s][e] += 1;
      }
      if (real == 0) continue;
      const double factor = scale / (double(k) * real * real * sequences);
      for (double& rate : rates[s]) rate *= factor;
    }
  });
}

void add_dot(Queue&, View<const double, 2> a, View<const double, 2> b, View<double, 1> to) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
  to[0] += sum;
}

}  // namespace

template <class T>
void add_balance_entries(MoeKernels<T>& table) {
  table.add_counts = add_counts;
  table.load_rates = load_rates;
  table.sequence_rates = sequence_rates;
  table.add_dot = add_dot;
  table.sequence_sums = sequence_sums<T>;
  table.sequence_grads = sequence_grads<T>;
}
template void add_balance_entries(MoeKernels<float>&);
template void add_balance_entries(MoeKernels<double>&);

}  // namespace cadre::moe
