// Online data mixing (Albalak et al. 2023, arXiv 2312.02406): Exp3 with the training loss as reward. After update i,
// with e_i = min(1/K, sqrt(ln K / (K i))):
//   R_k += (loss_k / 10) / pi_k for the domain that was drawn;  pi = (1 - K e_i) softmax(e_{i-1} R) + e_i.
// Dividing by pi_k corrects for how often a domain is drawn. Here every batch holds every domain, so each update
// draws one domain from pi and uses its loss alone; updating all at once would only reach pi ~ loss.
#include <algorithm>
#include <cmath>

#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

class Odm final : public LearntMixer {
 public:
  Odm(double max_epochs, std::vector<double> uniform)
      : LearntMixer(uniform, max_epochs), reward_(uniform.size(), 0.0) {
    for (const double w : uniform) active_.push_back(w > 0);
  }
  void observe(const Progress&, const DomainStats& stats) override {
    const size_t k = draw();
    if (!(stats.tokens[k] > 0)) return;
    const double domains = double(std::count(active_.begin(), active_.end(), true));
    const double before = rate(domains, double(updates_)), after = rate(domains, double(++updates_));
    reward_[k] += stats.loss_sum[k] / stats.tokens[k] / 10 / w_[k];
    std::vector<double> logits;
    for (const double r : reward_) logits.push_back(before * r);
    w_ = softmax(logits, active_);
    for (size_t i = 0; i < w_.size(); ++i) {
      if (active_[i]) w_[i] = (1 - domains * after) * w_[i] + after;
    }
  }
  nlohmann::json save() const override {
    return {{"weights", w_}, {"reward", reward_}, {"updates", updates_}};
  }
  void load(const nlohmann::json& state) override {
    LearntMixer::load(state);
    reward_ = domain_vector(state, "reward");
    updates_ = state.at("updates");
  }

 private:
  static double rate(double domains, double i) {
    return i < 1 ? 1 / domains : std::min(1 / domains, std::sqrt(std::log(domains) / (domains * i)));
  }
  size_t draw() const {
    double left = base::Philox(base::hash_name("odm")).uniform(uint64_t(updates_));
    size_t last = 0;
    for (size_t k = 0; k < w_.size(); ++k) {
      if (!active_[k]) continue;
      last = k;
      if ((left -= w_[k]) < 0) break;
    }
    return last;
  }
  std::vector<double> reward_;
  std::vector<bool> active_;
  int64_t updates_ = 0;
};

}  // namespace

std::unique_ptr<Mixer> make_odm(base::Section section, const MixerContext& context) {
  const double max_epochs = section.number("max_epochs", 0, {.min = 0});
  section.finish();
  return std::make_unique<Odm>(max_epochs, normalised(text_bounds(context.domain_tokens).hi));
}

}  // namespace cadre::data
