// Influence of each document on each domain of the targets, per trained token: <P G, g_z>, g_z the gradient of the
// document's mean loss, G that of the domain's, P as the optimizer's last update left it. Whole batches are scored by one
// backward pass, with a tap for each target (trainer/influence/score_tap.h); no document's gradient is made.
// Of pairs, g_z is the gradient of minus the margin, what a step of DPO takes from the pair at its reference up to a
// factor that all pairs share: influence by pair and not by token, at both documents. Pairs as a target stand for minus
// their margin by token.
#include <algorithm>

#include "trainer/influence/score_tap.h"
#include "trainer/run/document_rows.h"
#include "trainer/selection/gradient_model.h"

namespace cadre::trainer {
namespace {

// Several taps as one.
class TapList final : public device::Tap<Real> {
 public:
  explicit TapList(std::vector<std::unique_ptr<ScoreTap<Real>>>& taps) : taps_(taps) {}
  void on_linear(int param, device::View<const Real, 2> a, device::View<const Real, 2> b,
                 const int32_t* token, device::View<const int64_t, 1> group_offsets) override {
    for (auto& tap : taps_) tap->on_linear(param, a, b, token, group_offsets);
  }
  void on_lookup(int param, device::View<const int32_t, 1> index, device::View<const Real, 2> b) override {
    for (auto& tap : taps_) tap->on_lookup(param, index, b);
  }
  void on_scale(int param, device::View<const Real, 2> x, device::View<const Real, 1> rstd,
                device::View<const Real, 2> b, int64_t rows_per_token) override {
    for (auto& tap : taps_) tap->on_scale(param, x, rstd, b, rows_per_token);
  }

 private:
  std::vector<std::unique_ptr<ScoreTap<Real>>>& taps_;
};

class InfluenceScores final : public ScoreKind {
 public:
  explicit InfluenceScores(const ScoreInputs& in) : corpus_(*in.corpus), model_(in) {
    ModelState& model = model_.state().model;
    for (const TargetDomain& domain : target_domains(in.targets, in.options->target_tokens)) {
      names_.push_back(domain.name);
      model_.differentiate(*in.targets, domain.documents, [&](int64_t) { return 1 / domain.tokens; });
      auto& direction = directions_.emplace_back(
          std::make_unique<device::ParamStore<Real>>(model.layout, model.queue.kind(), false));
      for (int g = 0; g < device::kNumGroups; ++g) point(device::Group(g), *direction);
      taps_.push_back(std::make_unique<ScoreTap<Real>>(
          ScoreTapContext<Real>{.queue = &model.queue,
                                .kernels = &device::device_kernels<Real>(model.queue.kind()),
                                .moe_kernels = &moe::moe_kernels<Real>(model.queue.kind()),
                                .expert = nullptr,
                                .max_tokens = model.config.train.micro_batch * model.config.data.seq_len},
          *direction));
    }
  }

  std::vector<std::string> columns() const override { return names_; }

  std::vector<std::vector<double>> score(int64_t begin, int64_t end) override {
    ModelState& model = model_.state().model;
    std::vector<int64_t> documents;
    std::vector<double> tokens;
    for (int64_t d = begin; d < end; ++d) {
      documents.push_back(d);
      tokens.push_back(pairs() ? 1 : std::max(1.0, GradientModel::tokens(corpus_, d)));
    }
    std::vector<std::vector<double>> out(names_.size(), std::vector<double>(documents.size(), 0.0));
    const DocumentRows rows(corpus_, documents, model.config.data.seq_len, model.config.data.mask_documents);
    const int64_t sequences = model.config.train.micro_batch;
    TapList list(taps_);
    std::vector<Real> dlogp;
    for (int64_t i = 0; i < rows.micro_batches(sequences, 1); ++i) {
      const Batch batch = rows.micro_batch(i, sequences, 0, 1);
      model.decoder.begin_step();
      model.store.start_grads(model.queue, true);
      model.decoder.forward(batch, true);
      dlogp.assign(size_t(batch.num_tokens()), 0);
      for (size_t t = 0; t < dlogp.size(); ++t) {
        const int64_t d = batch.document[t];
        if (batch.loss_mask[t] != 0)
          dlogp[t] = Real(-GradientModel::sign(corpus_, d) / tokens[size_t(d - begin)]);
      }
      model.decoder.backward(
          {dlogp.data(), {batch.num_tokens()}}, {}, [](int) {}, &list);
      for (size_t j = 0; j < taps_.size(); ++j) {
        const auto scores = taps_[j]->finish(batch.num_tokens());
        for (size_t t = 0; t < scores.size(); ++t) {
          if (batch.segment[t] >= 0) out[j][size_t(batch.document[t] - begin)] += scores[t];
        }
      }
    }
    for (auto& column : out) {
      for (size_t d = 0; pairs() && d < column.size(); d += 2)
        column[d] = column[d + 1] = column[d] + column[d + 1];
    }
    return out;
  }

 private:
  bool pairs() const { return GradientModel::unit(corpus_) == 2; }

  void point(device::Group group, device::ParamStore<Real>& direction) {
    const TrainState& state = model_.state();
    for (const comm::Piece& piece : state.optimizer_context.pieces[int(group)]) {
      state.optimizer->precondition(group, piece,
                                    state.model.store.grads(group).rows(piece.group_offset, piece.count),
                                    direction.values(group).rows(piece.group_offset, piece.count));
    }
  }

  const data::Corpus& corpus_;
  GradientModel model_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<device::ParamStore<Real>>> directions_;
  std::vector<std::unique_ptr<ScoreTap<Real>>> taps_;
};

}  // namespace

std::unique_ptr<ScoreKind> make_influence_scores(const ScoreInputs& inputs) {
  require(
      inputs.config->data.mask_documents, ExitCode::kUsage,
      "influence of documents needs data.mask_documents: true, since else a document's gradient holds its "
      "neighbours'");
  return std::make_unique<InfluenceScores>(inputs);
}

}  // namespace cadre::trainer
