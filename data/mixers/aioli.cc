// Aioli (Chen et al. 2025, arXiv 2411.05735, Alg. 1): every `every` steps, for some rounds, trains a few steps on a
// mix with most weight on each domain in turn, in random order, and sees how much the held-out loss of all domains
// fell. With M the trial mixes and D_ik the mean fall of domain i's loss under trial k, row i of A solves M A_i = D_i;
// A's least entry is taken off when it is negative, A is divided by its sum, and w ~ w exp(eta sum_i A_ik).
//
// Weights act `delay` steps after they were asked for, so trials are laid out by the step in which a batch is used;
// held-out losses are measured before the first step of every trial and after the last. The cost is
// rounds * K + 1 evaluations a sweep.
#include <algorithm>
#include <cmath>

#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

struct AioliConfig {
  int64_t every = 250, rounds = 4, steps = 4;
  double one_hot = 0.625, eta = 0.2, max_epochs = 0;
};

class Aioli final : public LearntMixer {
 public:
  Aioli(const AioliConfig& config, int delay, std::vector<double> uniform)
      : LearntMixer(uniform, config.max_epochs),
        config_(config),
        delay_(delay),
        fall_(uniform.size() * uniform.size()) {
    for (size_t k = 0; k < uniform.size(); ++k) {
      if (uniform[k] > 0) domains_.push_back(k);
    }
  }

  std::vector<double> weights(const Progress& progress) override {
    const int64_t at = place(int64_t(progress.step) + delay_);
    return at >= 0 && at < sweep() ? trial(domain_of(int64_t(progress.step) + delay_, at / config_.steps))
                                   : w_;
  }
  Needs needs() const override { return Needs::kProbeEvaluation; }
  bool probe_due(const Progress& progress) const override {
    const int64_t at = place(int64_t(progress.step));
    return at >= 0 && at <= sweep() && at % config_.steps == 0;
  }

  void observe(const Progress& progress, const DomainStats& stats) override {
    if (stats.valid_loss.empty()) return;
    const int64_t step = int64_t(progress.step) - 1;  // the losses are those before this step
    const int64_t at = place(step), done = at / config_.steps;
    if (done > 0 && before_.size() == w_.size()) {
      const size_t trial = domain_of(step, done - 1);
      for (const size_t i : domains_) fall_[i * w_.size() + trial] += before_[i] - stats.valid_loss[i];
    }
    before_ = stats.valid_loss;
    if (at != sweep()) return;
    update();
    std::fill(fall_.begin(), fall_.end(), 0.0);
    before_.clear();
  }

  nlohmann::json save() const override { return {{"weights", w_}, {"fall", fall_}, {"before", before_}}; }
  void load(const nlohmann::json& state) override {
    LearntMixer::load(state);
    fall_ = state.at("fall").get<std::vector<double>>();
    before_ = state.at("before").get<std::vector<double>>();
  }

 private:
  int64_t sweep() const { return config_.rounds * config_.steps * int64_t(domains_.size()); }
  // Steps since the sweep of this cycle began; -1 before the first.
  int64_t place(int64_t step) const { return step < config_.every ? -1 : step % config_.every; }

  std::vector<double> trial(size_t domain) const {
    std::vector<double> w(w_.size(), 0.0);
    const double rest = domains_.size() > 1 ? (1 - config_.one_hot) / double(domains_.size() - 1) : 0;
    for (const size_t k : domains_) w[k] = rest;
    w[domain] = domains_.size() > 1 ? config_.one_hot : 1;
    return w;
  }

  // Domain of the n-th trial of the sweep that `step` belongs to: a new order every round.
  size_t domain_of(int64_t step, int64_t n) const {
    const int64_t count = int64_t(domains_.size()), round = n / count;
    const base::Philox random(base::mix(base::hash_name("aioli"), uint64_t(step / config_.every)));
    std::vector<size_t> order = domains_;
    for (size_t i = order.size(); i > 1; --i) {
      std::swap(order[i - 1], order[random.bits(uint64_t(round), i) % i]);
    }
    return order[size_t(n % count)];
  }

  // M = (p - q) I + q 1 1^T has the inverse (I - q 1 1^T) / (p - q), its rows summing to 1.
  void update() {
    const double count = double(domains_.size());
    if (domains_.size() < 2) return;
    const double p = config_.one_hot, q = (1 - p) / (count - 1);
    std::vector<double> a(fall_.size(), 0.0);
    double least = 0, sum = 0;
    for (const size_t i : domains_) {
      double row = 0;
      for (const size_t k : domains_) row += fall_[i * w_.size() + k];
      for (const size_t k : domains_) {
        double& x = a[i * w_.size() + k];
        x = (fall_[i * w_.size() + k] - q * row) / (p - q) / double(config_.rounds);
        least = std::min(least, x);
      }
    }
    std::vector<double> logits(w_.size(), 0.0);
    std::vector<bool> active(w_.size(), false);
    for (const size_t i : domains_) {
      for (const size_t k : domains_) sum += a[i * w_.size() + k] -= least;
    }
    if (!(sum > 0) || !std::isfinite(sum)) return;
    for (const size_t k : domains_) {
      active[k] = true;
      logits[k] = std::log(w_[k]);
      for (const size_t i : domains_) logits[k] += config_.eta * a[i * w_.size() + k] / sum;
    }
    w_ = softmax(logits, active);
  }

  AioliConfig config_;
  int64_t delay_;
  std::vector<size_t> domains_;  // with text
  std::vector<double> fall_;     // (K, K): of domain i's loss under trials of k
  std::vector<double> before_;   // (K) held-out losses before the trial under way; empty between sweeps
};

}  // namespace

std::unique_ptr<Mixer> make_aioli(base::Section section, const MixerContext& context) {
  AioliConfig c;
  c.every = section.integer("every", c.every, {.min = 1});
  c.rounds = section.integer("rounds", c.rounds, {.min = 1});
  c.steps = section.integer("steps", c.steps, {.min = 1});
  c.one_hot = section.number("one_hot", c.one_hot, {.above = 0, .below = 1});
  c.eta = section.number("eta", c.eta, {.above = 0});
  c.max_epochs = section.number("max_epochs", c.max_epochs, {.min = 0});
  const auto domains = std::count_if(context.domain_tokens.begin(), context.domain_tokens.end(),
                                     [](int64_t tokens) { return tokens > 0; });
  const int64_t needed = c.rounds * c.steps * domains + context.delay + 1;
  if (c.every < needed) {
    section.reject(
        "every", fmt::format("{} steps are too few for {} rounds of {} steps on {} domains and data.prefetch "
                             "{}; expected at least {}",
                             c.every, c.rounds, c.steps, domains, context.delay, needed));
  }
  if (domains > 1 && c.one_hot * double(domains) <= 1)
    section.reject("one_hot", fmt::format("{} is not above 1 / {} domains: the trials would not differ",
                                          c.one_hot, domains));
  section.finish();
  return std::make_unique<Aioli>(c, context.delay, normalised(text_bounds(context.domain_tokens).hi));
}

}  // namespace cadre::data
