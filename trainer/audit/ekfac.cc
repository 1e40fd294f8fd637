#include "trainer/audit/ekfac.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"

// LAPACK's eigenvectors of a symmetric matrix (the BLAS library has it; its header is a package of its own).
extern "C" void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda,
                        double* w, double* work, const int* lwork, int* iwork, const int* liwork, int* info);

namespace cadre::audit {
namespace {

using Matrix = std::vector<double>;

// c (m, n) = beta c + op(a) op(b), row-major.
void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double* a, const double* b, double beta,
          double* c) {
  cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, int(m), int(n),
              int(k), 1, a, int(ta ? m : k), b, int(tb ? k : n), beta, c, int(n));
}

// Eigenvectors of a symmetric (n, n) matrix as columns of a row-major one.
void eigenvectors(Matrix& matrix, int64_t size) {
  const int n = int(size);
  int info = 0, iwork_size = 0, query = -1;
  double work_size = 0;
  Matrix values(static_cast<size_t>(n));
  dsyevd_("V", "U", &n, matrix.data(), &n, values.data(), &work_size, &query, &iwork_size, &query, &info);
  const int work_n = int(work_size), iwork_n = iwork_size;
  Matrix work(static_cast<size_t>(work_n));
  std::vector<int> iwork(static_cast<size_t>(iwork_n));
  dsyevd_("V", "U", &n, matrix.data(), &n, values.data(), work.data(), &work_n, iwork.data(), &iwork_n,
          &info);
  require(info == 0, ExitCode::kNumeric, "EK-FAC: the eigenvectors of a factor of size {} were not found", n);
  // LAPACK's columns are the rows here.
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < i; ++j)
      std::swap(matrix[size_t(i) * size_t(n) + size_t(j)], matrix[size_t(j) * size_t(n) + size_t(i)]);
  }
}

// First rows of the documents of a batch, and one behind the last.
std::vector<std::pair<int64_t, int64_t>> documents_of(const Batch& batch) {
  std::vector<std::pair<int64_t, int64_t>> pieces;
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    if (batch.segment[size_t(t)] < 0) continue;
    const bool first = t % batch.seq_len == 0 || batch.segment[size_t(t)] != batch.segment[size_t(t - 1)];
    if (first) pieces.emplace_back(t, t);
    pieces.back().second = t + 1;
  }
  return pieces;
}

// The same of a layer's rows, which may be those of some tokens only; documents without any are left out.
std::vector<std::pair<int64_t, int64_t>> rows_of_documents(const Batch& batch,
                                                           const std::vector<int32_t>& token) {
  std::vector<std::pair<int64_t, int64_t>> rows;
  for (const auto& [begin, end] : documents_of(batch)) {
    const auto first = std::lower_bound(token.begin(), token.end(), int32_t(begin));
    const auto last = std::lower_bound(first, token.end(), int32_t(end));
    if (first != last) rows.emplace_back(first - token.begin(), last - token.begin());
  }
  return rows;
}

}  // namespace

template <class T>
void Ekfac<T>::on_linear(int param, View<const T, 2> a, View<const T, 2> b, const int32_t* token,
                         View<const int64_t, 1> group_offsets) {
  require(group_offsets.empty(), ExitCode::kUsage,
          "EK-FAC: '{}' is a layer of experts; audit a dense model with it", layout_.table().row(param).name);
  Layer& layer = layers_[param];
  layer.in = a.dim(1);
  layer.out = b.dim(1);
  // Chunks of one backward pass come in the order of their rows.
  layer.rows_a.insert(layer.rows_a.end(), a.begin(), a.end());
  layer.rows_b.insert(layer.rows_b.end(), b.begin(), b.end());
  for (int64_t r = 0; r < a.dim(0); ++r) layer.token.push_back(token != nullptr ? token[r] : int32_t(r));
}

template <class T>
void Ekfac<T>::add_factors(const Batch& batch) {
  for (auto& [param, layer] : layers_) {
    layer.a.resize(size_t(layer.in * layer.in), 0);
    layer.s.resize(size_t(layer.out * layer.out), 0);
    for (const auto& [begin, end] : rows_of_documents(batch, layer.token)) {
      const double *a = layer.rows_a.data() + begin * layer.in, *b = layer.rows_b.data() + begin * layer.out;
      gemm(true, false, layer.in, layer.in, end - begin, a, a, 1, layer.a.data());
      gemm(true, false, layer.out, layer.out, end - begin, b, b, 1, layer.s.data());
      layer.tokens += end - begin;
    }
    forget_rows(layer);
  }
}

template <class T>
void Ekfac<T>::forget_rows(Layer& layer) {
  layer.rows_a.clear();
  layer.rows_b.clear();
  layer.token.clear();
}

template <class T>
void Ekfac<T>::decompose() {
  for (auto& [param, layer] : layers_) {
    for (Matrix* factor : {&layer.a, &layer.s}) {
      for (double& x : *factor) x /= double(layer.tokens);
    }
    eigenvectors(layer.a, layer.in);
    eigenvectors(layer.s, layer.out);
    layer.eigenvalues.assign(size_t(layer.in * layer.out), 0);
  }
}

template <class T>
void Ekfac<T>::add_eigenvalues(const Batch& batch) {
  for (auto& [param, layer] : layers_) {
    const int64_t n = int64_t(layer.token.size()), in = layer.in, out = layer.out;
    Matrix a(static_cast<size_t>(n * in)), b(static_cast<size_t>(n * out)), g(static_cast<size_t>(out * in));
    gemm(false, false, n, in, in, layer.rows_a.data(), layer.a.data(), 0, a.data());
    gemm(false, false, n, out, out, layer.rows_b.data(), layer.s.data(), 0, b.data());
    for (const auto& [begin, end] : rows_of_documents(batch, layer.token)) {
      gemm(true, false, out, in, end - begin, b.data() + begin * out, a.data() + begin * in, 0, g.data());
      for (size_t i = 0; i < g.size(); ++i) layer.eigenvalues[i] += g[i] * g[i];
    }
    forget_rows(layer);
  }
  documents_ += int64_t(documents_of(batch).size());
}

template <class T>
void Ekfac<T>::solve(std::span<const W> gradient, double damping, std::span<W> out) const {
  std::fill(out.begin(), out.end(), W(0));
  for (const auto& [param, layer] : layers_) {
    const auto at = size_t(layout_.at(param).offset);
    const int64_t n_in = layer.in, n_out = layer.out;
    const size_t size = size_t(n_in * n_out);
    Matrix v(gradient.begin() + at, gradient.begin() + at + size), rotated(size);
    double mean = 0;
    for (const double l : layer.eigenvalues) mean += l / double(documents_) / double(size);
    gemm(true, false, n_out, n_in, n_out, layer.s.data(), v.data(), 0, rotated.data());
    gemm(false, false, n_out, n_in, n_in, rotated.data(), layer.a.data(), 0, v.data());
    for (size_t i = 0; i < size; ++i) v[i] /= layer.eigenvalues[i] / double(documents_) + damping * mean;
    gemm(false, false, n_out, n_in, n_out, layer.s.data(), v.data(), 0, rotated.data());
    gemm(false, true, n_out, n_in, n_in, rotated.data(), layer.a.data(), 0, v.data());
    std::copy(v.begin(), v.end(), out.begin() + std::ptrdiff_t(at));
  }
}

template <class W>
std::vector<int32_t> sample_labels(trainer::Network<W>& model, const Batch& batch, uint64_t seed) {
  const base::Philox random(base::mix(base::hash_name("ekfac labels"), seed));
  std::vector<int32_t> labels = batch.targets;
  for (const auto& [begin, end] : documents_of(batch)) {
    const auto cache = model.make_cache(end - begin);
    for (int64_t t = begin; t < end; ++t) {
      const auto logits = model.extend(*cache, {batch.tokens[size_t(t)]});
      const double most = double(*std::max_element(logits.begin(), logits.end()));
      double sum = 0;
      for (const W x : logits) sum += std::exp(double(x) - most);
      double left = random.uniform(uint64_t(t)) * sum;
      int64_t label = 0;
      for (; label + 1 < logits.size(); ++label) {
        left -= std::exp(double(logits[label]) - most);
        if (left < 0) break;
      }
      labels[size_t(t)] = int32_t(label);
    }
  }
  return labels;
}

template class Ekfac<float>;
template class Ekfac<double>;
template std::vector<int32_t> sample_labels(trainer::Network<float>&, const Batch&, uint64_t);
template std::vector<int32_t> sample_labels(trainer::Network<double>&, const Batch&, uint64_t);

}  // namespace cadre::audit
