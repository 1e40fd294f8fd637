#include "moe/one_expert.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "moe/cuda/entries.h"
#include "moe/cuda/grouped_hopper.h"
#include "moe/cuda/launch.h"

namespace cadre::moe::cuda {
namespace {

using device::bf16;
using device::Queue;
using device::View;
using Matrix = View<const bf16, 2>;

Weights as_group(Matrix w) {
  return w.reshape<3>({1, w.dim(0), w.dim(1)});
}

void swiglu_backward(Queue& queue, Matrix dy, Matrix w_down, Rows gate, Rows up) {
  hopper_dense_swiglu_backward(stream_of(queue), dy, as_group(w_down), {}, gate, up);
}

void dgrad(Queue& queue, std::span<const DgradTerm<bf16>> terms, Rows dx) {
  static_assert(kMostDgradTerms == kMostTerms);
  assert(terms.size() <= kMostTerms);
  std::array<HopperTerm, kMostTerms> groups;
  for (size_t i = 0; i < terms.size(); ++i) groups[i] = {terms[i].b, as_group(terms[i].w)};
  hopper_dgrad_sum(stream_of(queue), std::span(groups).first(terms.size()), {}, dx);
}

// The library's products have this kernel's speed where their own tiles fill the GPU.
bool wgrads(Queue& queue, Wgrads layers, bool accumulate) {
  if (!fill_waves_together(layers, multiprocessors())) return false;
  hopper_wgrads(stream_of(queue), layers, accumulate);
  return true;
}

}  // namespace

// One tile of rows: below, as when text is generated, a product has few tiles whose long sums the library splits.
const OneExpert<bf16>* hopper_one_expert(int64_t rows, std::span<const Matrix> operands) {
  constexpr int64_t kFewestRows = 128;
  static constexpr OneExpert<bf16> kEntries = {swiglu_backward, dgrad, wgrads};
  const bool whole =
      std::ranges::all_of(operands, [](const Matrix& m) { return in_units({m.data()}, {m.dim(1)}); });
  return rows >= kFewestRows && whole && has_wgmma() ? &kEntries : nullptr;
}

}  // namespace cadre::moe::cuda
