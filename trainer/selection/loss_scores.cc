// Loss of each document: `nats` summed over the tokens that are trained, and how many they are. Documents longer than the
// model's sequences are cut into pieces that overlap by one token. Of pairs also `margin`, the log-probability of the
// chosen answer minus the rejected one's, at both documents.
#include "trainer/run/document_rows.h"
#include "trainer/selection/score_kind.h"

namespace cadre::trainer {
namespace {

constexpr int64_t kRows = 8;  // of a forward pass

class LossScores final : public ScoreKind {
 public:
  explicit LossScores(const ScoreInputs& in)
      : corpus_(*in.corpus), model_(*in.config, *in.world, kRows, false) {
    require(corpus_.kind() != data::SetKind::kPrompts, ExitCode::kUsage,
            "prompts have no answers whose loss could be taken; score them with --kind pass_rate");
    restore_model(model_, *in.reader);
  }

  std::vector<std::string> columns() const override {
    if (pairs()) return {"nats", "tokens", "margin"};
    return {"nats", "tokens"};
  }

  std::vector<std::vector<double>> score(int64_t begin, int64_t end) override {
    std::vector<int64_t> documents;
    for (int64_t d = begin; d < end; ++d) documents.push_back(d);
    const RunConfig& config = model_.config;
    const DocumentRows rows(corpus_, documents, config.data.seq_len, config.data.mask_documents);
    std::vector<std::vector<double>> out(columns().size(), std::vector<double>(documents.size(), 0.0));
    for (int64_t i = 0; i < rows.micro_batches(kRows, 1); ++i) {
      const Batch batch = rows.micro_batch(i, kRows, 0, 1);
      const auto logp = model_.decoder.forward(batch, false);
      for (int64_t t = 0; t < batch.num_tokens(); ++t) {
        if (batch.loss_mask[size_t(t)] == 0) continue;
        const auto d = size_t(batch.document[size_t(t)] - begin);
        out[0][d] -= double(logp[t]);
        out[1][d] += 1;
      }
    }
    for (size_t d = 0; pairs() && d < documents.size(); d += 2) {
      out[2][d] = out[2][d + 1] = out[0][d + 1] - out[0][d];
    }
    return out;
  }

 private:
  bool pairs() const { return corpus_.kind() == data::SetKind::kPreference; }

  const data::Corpus& corpus_;
  ModelState model_;
};

}  // namespace

std::unique_ptr<ScoreKind> make_loss_scores(const ScoreInputs& inputs) {
  return std::make_unique<LossScores>(inputs);
}

}  // namespace cadre::trainer
