// LESS's score of one checkpoint (Xia et al. 2024, arXiv 2402.04333): for each domain of the targets the mean over its
// documents v of cos(S g_v, S P g_z), g the gradient of a document's mean loss, S a sketch. The training side steps as
// Adam would with its second moments frozen: P = 1 / (sqrt(vhat) + eps), as the last update left it, with bias correction
// and eps outside the root. The paper's own feature, one Adam step on z alone, is mostly the stale momentum that all
// documents share; that part is left out. The cosine takes away the bias to short documents, whose gradients are large.
// A pair counts as one document whose loss is minus its margin.
#include <cmath>

#include "trainer/selection/gradient_model.h"
#include "trainer/selection/sketch.h"

namespace cadre::trainer {
namespace {

using Vector = std::vector<double>;

class LessScores final : public ScoreKind {
 public:
  explicit LessScores(const ScoreInputs& in)
      : corpus_(*in.corpus), model_(in), sketcher_(in.options->sketch, in.options->seed) {
    for (const TargetDomain& domain : target_domains(in.targets, in.options->target_tokens)) {
      names_.push_back(domain.name);
      targets_.push_back(mean_direction(*in.targets, domain));
    }
  }

  std::vector<std::string> columns() const override { return names_; }

  std::vector<Vector> score(int64_t begin, int64_t end) override {
    std::vector<Vector> out(names_.size(), Vector(size_t(end - begin), 0.0));
    const int64_t unit = GradientModel::unit(corpus_);
    for (int64_t d = begin; d < end; d += unit) {
      const Vector v = feature(corpus_, d, true);
      const double norm = std::sqrt(dot(v, v));
      if (norm == 0) continue;  // teaches nothing
      for (size_t j = 0; j < targets_.size(); ++j) {
        for (int64_t i = 0; i < unit; ++i) out[j][size_t(d + i - begin)] = dot(v, targets_[j]) / norm;
      }
    }
    return out;
  }

 private:
  Vector mean_direction(const data::Corpus& corpus, const TargetDomain& domain) {
    const int64_t unit = GradientModel::unit(corpus);
    Vector mean;
    for (size_t at = 0; at < domain.documents.size(); at += size_t(unit)) {
      const Vector v = feature(corpus, domain.documents[at], false);
      mean.resize(v.size(), 0.0);
      const double norm = std::sqrt(dot(v, v)), count = double(int64_t(domain.documents.size()) / unit);
      for (size_t i = 0; norm > 0 && i < v.size(); ++i) mean[i] += v[i] / (norm * count);
    }
    return mean;
  }

  // Of the document, or the pair that begins there.
  Vector feature(const data::Corpus& corpus, int64_t document, bool preconditioned) {
    std::vector<int64_t> documents;
    double tokens = 0;
    for (int64_t i = 0; i < GradientModel::unit(corpus); ++i) {
      documents.push_back(document + i);
      tokens += GradientModel::tokens(corpus, document + i);
    }
    model_.differentiate(corpus, documents, [&](int64_t) { return 1 / tokens; });
    Vector out(size_t(sketcher_.size()), 0.0);
    model_.visit(preconditioned,
                 [&](const device::ParamRow& row, int64_t begin, std::span<const float> values) {
                   if (sketcher_.size() > 0) {
                     sketcher_.add(row.name, begin, values, out);
                   } else {
                     out.insert(out.end(), values.begin(), values.end());
                   }
                 });
    return out;
  }

  const data::Corpus& corpus_;
  GradientModel model_;
  Sketcher sketcher_;
  std::vector<std::string> names_;
  std::vector<Vector> targets_;  // mean of unit sketches, by domain
};

}  // namespace

std::unique_ptr<ScoreKind> make_less_scores(const ScoreInputs& inputs) {
  return std::make_unique<LessScores>(inputs);
}

}  // namespace cadre::trainer
