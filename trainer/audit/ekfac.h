// EK-FAC influence, the gold standard for small dense models: directions H^-1 G with the Fisher matrix in place of the
// Hessian, block by block in the eigenbasis of its Kronecker factors (George et al. 2018, arXiv 1806.03884; influence:
// Grosse et al. 2023, arXiv 2308.03296). For a linear layer y = W a with output gradient b, labels drawn from the model:
//   A = E[a a^T] = Q_A . Q_A^T,  S = E[b b^T] = Q_S . Q_S^T  over tokens,
//   L = E[(Q_S^T g Q_A)^2]  element by element over documents, g a document's gradient,
//   H^-1 V = Q_S [(Q_S^T V Q_A) / (L + damping mean(L))] Q_A^T.
// Linear layers only: embeddings and norms get 0. All in double, whatever the model's type.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "parallel/base/batch.h"
#include "parallel/device/param_table.h"
#include "parallel/device/tap.h"
#include "trainer/model/network.h"

namespace cadre::audit {

template <class T>
class Ekfac final : public device::Tap<T> {
 public:
  template <class U, int N>
  using View = device::View<U, N>;
  using W = device::wide_t<T>;

  // The layout is borrowed; of one rank.
  explicit Ekfac(const device::ParamLayout& layout) : layout_(layout) {}

  // Keeps the rows of a backward pass; throws Error(kUsage) for experts, whose rows have no factors here.
  void on_linear(int param, View<const T, 2> a, View<const T, 2> b, const int32_t* token,
                 View<const int64_t, 1> group_offsets) override;
  // Then, after each micro-batch, one of these: the factors first, for all the text, and then the eigenvalues. The
  // batch's segments are the documents.
  void add_factors(const Batch& batch);
  void add_eigenvalues(const Batch& batch);
  void decompose();  // between the two

  // out = H^-1 gradient; both in the layout of Group::kDense.
  void solve(std::span<const W> gradient, double damping, std::span<W> out) const;

  struct Layer {
    int64_t in = 0, out = 0, tokens = 0;
    std::vector<double> a, s;            // (in, in), (out, out): sums, then eigenvectors as columns
    std::vector<double> eigenvalues;     // (out, in): L, as a sum over documents
    std::vector<double> rows_a, rows_b;  // of the pass under way: (n, in), (n, out)
    std::vector<int32_t> token;          // (n) rising
  };
  const std::map<int, Layer>& layers() const { return layers_; }  // by row of the table

 private:
  static void forget_rows(Layer& layer);
  const device::ParamLayout& layout_;
  std::map<int, Layer> layers_;
  int64_t documents_ = 0;
};

// Labels of every trained token drawn from the model's own distribution, a function of (seed, token). The batch has one
// document a segment and attention stays inside them.
template <class W>
std::vector<int32_t> sample_labels(trainer::Network<W>& model, const Batch& batch, uint64_t seed);

extern template class Ekfac<float>;
extern template class Ekfac<double>;

}  // namespace cadre::audit
