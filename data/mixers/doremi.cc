// DoReMi's proxy (Xie et al. 2023, arXiv 2305.10429, Alg. 1): group DRO on the loss above a reference model's. With
// lambda_k the mean over a domain's tokens of max(0, loss - reference loss), its last value where a batch has none and 0
// before the first:
//   log a <- log a + eta lambda;  a <- softmax;  a <- (1 - c) a + c / K, over the K domains with text.
// The paper draws batches by fixed weights and weights their losses by a; here batches are drawn with a itself, which
// has the same expected gradient and needs no other loss. What comes of it is the average of a over the run (`average:`
// in a study file), which a run with `mixer: file` then trains on. `loss_sum` holds the excess: Needs::kReferenceLoss.
#include <algorithm>
#include <cmath>

#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {

class Doremi final : public LearntMixer {
 public:
  Doremi(double eta, double smoothing, double max_epochs, std::vector<double> uniform)
      : LearntMixer(uniform, max_epochs), eta_(eta), smoothing_(smoothing), excess_(uniform.size(), 0.0) {
    for (const double w : uniform) active_.push_back(w > 0);
  }
  Needs needs() const override { return Needs::kReferenceLoss; }

  void observe(const Progress&, const DomainStats& stats) override {
    const double domains = double(std::count(active_.begin(), active_.end(), true));
    std::vector<double> logits;
    for (size_t k = 0; k < w_.size(); ++k) {
      if (stats.tokens[k] > 0) excess_[k] = stats.loss_sum[k] / stats.tokens[k];
      logits.push_back(active_[k] ? std::log(w_[k]) + eta_ * excess_[k] : 0);
    }
    w_ = softmax(logits, active_);
    for (size_t k = 0; k < w_.size(); ++k) {
      if (active_[k]) w_[k] = (1 - smoothing_) * w_[k] + smoothing_ / domains;
    }
  }
  nlohmann::json save() const override { return {{"weights", w_}, {"excess", excess_}}; }
  void load(const nlohmann::json& state) override {
    LearntMixer::load(state);
    excess_ = domain_vector(state, "excess");
  }

 private:
  double eta_, smoothing_;
  std::vector<double> excess_;  // (K) lambda
  std::vector<bool> active_;    // domains with text
};

}  // namespace

std::unique_ptr<Mixer> make_doremi(base::Section section, const MixerContext& context) {
  const std::string reference = section.text("reference", "");  // loaded by the trainer
  const double eta = section.number("eta", 1, {.above = 0});
  // Above 0: a weight that has become 0 has no logarithm.
  const double smoothing = section.number("smoothing", 1e-3, {.max = 1, .above = 0});
  const double max_epochs = section.number("max_epochs", 0, {.min = 0});
  section.finish();
  if (context.made_up) return std::make_unique<StaticMixer>(std::vector<double>{}, max_epochs);
  if (reference.empty())
    section.reject("reference", "missing; give the run folder or a checkpoint of a run of the same model");
  return std::make_unique<Doremi>(eta, smoothing, max_epochs,
                                  normalised(text_bounds(context.domain_tokens).hi));
}

}  // namespace cadre::data
