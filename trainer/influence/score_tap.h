// Influence scores from one backward pass: s_t = sum over layers of b . (D a) for every token t, with D one
// direction in the space of all parameters. Summed over the tokens of a sample z this is <D, g_z>, g_z being the
// sample's share of the batch gradient, so that scores over a whole batch add up to <D, batch gradient>. It costs
// one more GEMM of forward size a layer, whatever the number of samples (the linear form of the ghost products of
// Wang et al. 2024, arXiv 2406.11011). Every kind of parameter is covered: linear layers, experts, router, head,
// embedding, norm weights. Scores of single tokens are parts of their sample's score and no influences of their
// own: attention carries a token's loss into the rows of others.
#pragma once

#include <span>
#include <vector>

#include "moe/kernels.h"
#include "parallel/comm/communicator.h"
#include "parallel/device/bf16.h"
#include "parallel/device/kernels.h"
#include "parallel/device/param_table.h"
#include "parallel/device/tap.h"
#include "trainer/influence/kernels.h"

namespace cadre::trainer {

template <class T>
struct ScoreTapContext {  // all borrowed; they outlive the tap
  device::Queue* queue = nullptr;
  const device::DeviceKernels<T>* kernels = nullptr;
  const moe::MoeKernels<T>* moe_kernels = nullptr;
  comm::Communicator* expert = nullptr;  // the expert group, null for one rank
  int64_t max_tokens = 0;                // of a micro-batch on one rank
};

template <class T>
class ScoreTap final : public device::Tap<T> {
 public:
  template <class U, int N>
  using View = device::View<U, N>;
  using W = device::wide_t<T>;

  // direction: one value for each parameter of this rank, in the layout of its ParamStore; borrowed.
  ScoreTap(const ScoreTapContext<T>& context, const device::ParamStore<T>& direction);

  void on_linear(int param, View<const T, 2> a, View<const T, 2> b, const int32_t* token,
                 View<const int64_t, 1> group_offsets) override;
  void on_wide_linear(int param, View<const T, 2> a, View<const W, 2> b) override;
  void on_lookup(int param, View<const int32_t, 1> index, View<const T, 2> b) override;
  void on_scale(int param, View<const T, 2> x, View<const W, 1> rstd, View<const T, 2> b,
                int64_t rows_per_token) override;

  // Scores of this rank's tokens since the last finish(), in host memory, valid until the next. Collective over
  // the expert group: slots of a rank's tokens were scored where their experts are.
  std::span<const double> finish(int64_t num_tokens);

 private:
  // Scores of `rows` rows to the tokens that are named, of this rank or of all expert ranks; -1 names none.
  void add_named(int64_t rows, const int32_t* token, bool shared_tokens);
  void add_in_order(int64_t rows, int64_t rows_per_token);
  template <class U>
  View<U, 2> product(int64_t rows, int64_t width);
  View<double, 1> scores(int64_t rows);
  View<double, 1> token_sums();
  View<double, 1> own_sums() { return token_sums().rows(rank() * context_.max_tokens, context_.max_tokens); }
  int ranks() const { return context_.expert != nullptr ? context_.expert->size() : 1; }
  int rank() const { return context_.expert != nullptr ? context_.expert->rank() : 0; }

  ScoreTapContext<T> context_;
  const InfluenceKernels<T>& kernels_;
  const device::ParamStore<T>& direction_;
  // Grown by the first micro-batch that needs more, since nobody knows the experts' rows before.
  device::Buffer product_, scores_, lists_;
  device::Buffer sums_;  // (expert ranks * max_tokens)
  std::vector<double> own_;
};

extern template class ScoreTap<float>;
extern template class ScoreTap<double>;
extern template class ScoreTap<device::bf16>;

}  // namespace cadre::trainer
