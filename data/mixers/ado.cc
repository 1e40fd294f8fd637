// ADO (Jiang et al. 2024, arXiv 2410.11820): domains that still learn fast get more. Each domain's training loss is
// fitted by L(n) = e + b n^-a over the tokens n seen of all domains (Huber loss of log L, delta 1e-3, from a grid of
// starts), again every `refit` steps from `start` on. With mu the natural shares and h an average of the past ones:
//   rho_k ~ mu_k sqrt(h_k (1 - h_k)) max(a_k, 0.05) (L_k(n) - e_k) / n, no share below 0.01
//   p = 0.9 mean(rho so far) + 0.1 rho.
// Losses are kept as means over runs of steps, at most 256 points a domain.
#include <algorithm>
#include <cmath>

#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {

using nlohmann::json;

struct AdoConfig {
  int64_t start = 500, refit = 1000;
  double max_epochs = 0;
};
struct Law {  // L(n) = exp(log_e) + exp(log_b) n^-a
  double log_e = 0, log_b = 0, a = 0;
  double reducible(double n) const { return std::exp(log_b - a * std::log(n)); }
};
constexpr size_t kPoints = 256;

// Huber loss of log L at x = {log_e, log_b, a}, and its gradient.
double misfit(const std::vector<double>& n, const std::vector<double>& loss, const std::vector<double>& x,
              std::vector<double>& gradient) {
  constexpr double kDelta = 1e-3;
  gradient.assign(3, 0.0);
  double sum = 0;
  for (size_t i = 0; i < n.size(); ++i) {
    const double log_n = std::log(n[i]), e = std::exp(x[0]), r = std::exp(x[1] - x[2] * log_n);
    const double error = std::log(e + r) - std::log(loss[i]), size = std::abs(error);
    sum += size <= kDelta ? error * error / 2 : kDelta * (size - kDelta / 2);
    const double slope = std::clamp(error, -kDelta, kDelta) / (e + r);
    gradient[0] += slope * e;
    gradient[1] += slope * r;
    gradient[2] -= slope * r * log_n;
  }
  return sum;
}

Law fit(const std::vector<double>& n, const std::vector<double>& loss) {
  const double least = *std::min_element(loss.begin(), loss.end()), log_n = std::log(n.front());
  struct Start {
    double value;
    std::vector<double> x;
  };
  std::vector<Start> starts;
  std::vector<double> unused;
  for (int i = 0; i < 8;
       ++i) {  // e from 5% to 98% of the least loss, a from 0.02 to 0.8, b so that L(n_0) fits
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < 8; ++k) {
        const double e = least * (0.05 + 0.93 * i / 7), a = 0.02 * std::pow(40, j / 7.0);
        const double gap = std::max(1e-6, loss.front() - e) * std::pow(2, (k - 3.5) / 3.5);
        const std::vector<double> x = {std::log(e), std::log(gap) + a * log_n, a};
        starts.push_back({misfit(n, loss, x, unused), x});
      }
    }
  }
  std::stable_sort(starts.begin(), starts.end(),
                   [](const Start& x, const Start& y) { return x.value < y.value; });
  const auto f = [&](const std::vector<double>& x, std::vector<double>& gradient) {
    return misfit(n, loss, x, gradient);
  };
  Start best = starts.front();
  for (size_t i = 0; i < 8; ++i) {  // the best of the grid, each to its minimum
    const auto x = minimise_smooth(f, starts[i].x);
    if (const double value = f(x, unused); std::isfinite(value) && value < best.value) best = {value, x};
  }
  return {best.x[0], best.x[1], best.x[2]};
}

class Ado final : public LearntMixer {
 public:
  Ado(const AdoConfig& config, std::vector<double> natural)
      : LearntMixer(natural, config.max_epochs),
        config_(config),
        natural_(std::move(natural)),
        history_(natural_),
        mean_rho_(natural_.size(), 0.0),
        loss_(natural_.size()),
        partial_loss_(natural_.size(), 0.0),
        partial_tokens_(natural_.size(), 0.0),
        laws_(natural_.size()) {}

  void observe(const Progress& progress, const DomainStats& stats) override {
    record(double(progress.tokens), stats);
    double total = 0;
    for (const double t : stats.tokens) total += t;
    for (size_t k = 0; k < w_.size() && total > 0; ++k)
      history_[k] = 0.9 * history_[k] + 0.1 * stats.tokens[k] / total;
    const auto step = int64_t(progress.step);
    if (step >= config_.start && (fits_ == 0 || (step - config_.start) % config_.refit == 0)) refit();
    if (fits_ > 0) update(std::max(1.0, double(progress.tokens)));
  }

  json save() const override {
    json laws = json::array();
    for (const Law& l : laws_) laws.push_back({l.log_e, l.log_b, l.a});
    return {{"weights", w_},
            {"history", history_},
            {"mean_rho", mean_rho_},
            {"updates", updates_},
            {"fits", fits_},
            {"n", n_},
            {"loss", loss_},
            {"stride", stride_},
            {"partial_steps", partial_steps_},
            {"laws", laws},
            {"partial_n", partial_n_},
            {"partial_loss", partial_loss_},
            {"partial_tokens", partial_tokens_}};
  }
  void load(const json& state) override {
    LearntMixer::load(state);
    history_ = domain_vector(state, "history");
    mean_rho_ = domain_vector(state, "mean_rho");
    partial_loss_ = domain_vector(state, "partial_loss");
    partial_tokens_ = domain_vector(state, "partial_tokens");
    updates_ = state.at("updates"), fits_ = state.at("fits"), stride_ = state.at("stride");
    partial_steps_ = state.at("partial_steps"), partial_n_ = state.at("partial_n");
    n_ = state.at("n").get<std::vector<double>>();
    loss_ = state.at("loss").get<std::vector<std::vector<double>>>();
    for (size_t k = 0; k < laws_.size(); ++k) {
      const auto l = state.at("laws").at(k).get<std::array<double, 3>>();
      laws_[k] = {l[0], l[1], l[2]};
    }
  }

 private:
  // One point a run of `stride_` steps; when there are too many, neighbours are joined and the stride doubles.
  void record(double tokens, const DomainStats& stats) {
    ++partial_steps_;
    partial_n_ += tokens;
    for (size_t k = 0; k < w_.size(); ++k) {
      partial_loss_[k] += stats.loss_sum[k];
      partial_tokens_[k] += stats.tokens[k];
    }
    if (partial_steps_ < stride_) return;
    n_.push_back(partial_n_ / double(partial_steps_));
    for (size_t k = 0; k < w_.size(); ++k) {
      loss_[k].push_back(partial_tokens_[k] > 0 ? partial_loss_[k] / partial_tokens_[k] : 0);
      partial_loss_[k] = partial_tokens_[k] = 0;
    }
    partial_steps_ = 0, partial_n_ = 0;
    if (n_.size() < kPoints) return;
    stride_ *= 2;
    halve(n_);
    for (auto& column : loss_) halve(column);
  }
  // A loss of 0 means that there was no text: the neighbour's stands for both.
  static void halve(std::vector<double>& values) {
    for (size_t i = 0; i < values.size() / 2; ++i) {
      const double a = values[2 * i], b = values[2 * i + 1];
      values[i] = a > 0 && b > 0 ? (a + b) / 2 : std::max(a, b);
    }
    values.resize(values.size() / 2);
  }

  void refit() {
    bool any = false;
    for (size_t k = 0; k < w_.size(); ++k) {
      std::vector<double> n, loss;
      for (size_t i = n_.size() / 10; i < n_.size(); ++i) {  // the first tenth is warm-up
        if (loss_[k][i] > 0 && n_[i] > 0) n.push_back(n_[i]), loss.push_back(loss_[k][i]);
      }
      if (natural_[k] == 0 || n.size() < 8) continue;
      laws_[k] = fit(n, loss);
      any = true;
    }
    if (any) ++fits_;
  }

  void update(double n) {
    std::vector<double> rho(w_.size(), 0.0);
    double sum = 0;
    for (size_t k = 0; k < w_.size(); ++k) {
      if (natural_[k] == 0) continue;
      const double h = std::clamp(history_[k], 1e-6, 1 - 1e-6);
      sum += rho[k] =
          natural_[k] * std::sqrt(h * (1 - h)) * std::max(laws_[k].a, 0.05) * laws_[k].reducible(n) / n;
    }
    if (!(sum > 0) || !std::isfinite(sum)) return;
    Bounds bounds;
    for (size_t k = 0; k < w_.size(); ++k) {
      bounds.lo.push_back(natural_[k] > 0 ? std::min(0.01, 0.5 / double(w_.size())) : 0);
      bounds.hi.push_back(natural_[k] > 0 ? 1 : 0);
      rho[k] = natural_[k] > 0 ? std::max(rho[k] / sum, 1e-12) : 0;
    }
    rho = scale_into(rho, bounds);
    if (updates_ == 0) mean_rho_ = rho;
    for (size_t k = 0; k < w_.size(); ++k) w_[k] = 0.9 * mean_rho_[k] + 0.1 * rho[k];
    ++updates_;
    for (size_t k = 0; k < w_.size(); ++k) mean_rho_[k] += (rho[k] - mean_rho_[k]) / double(updates_);
  }

  AdoConfig config_;
  std::vector<double> natural_, history_, mean_rho_;
  std::vector<double> n_;                  // tokens of all domains, by point
  std::vector<std::vector<double>> loss_;  // (K, points)
  std::vector<double> partial_loss_, partial_tokens_;
  double partial_n_ = 0;
  int64_t partial_steps_ = 0, stride_ = 1, updates_ = 0, fits_ = 0;
  std::vector<Law> laws_;
};

}  // namespace

std::unique_ptr<Mixer> make_ado(base::Section section, const MixerContext& context) {
  AdoConfig c;
  c.start = section.integer("start", c.start, {.min = 1});
  c.refit = section.integer("refit", c.refit, {.min = 1});
  c.max_epochs = section.number("max_epochs", c.max_epochs, {.min = 0});
  section.finish();
  return std::make_unique<Ado>(
      c, normalised(std::vector<double>(context.domain_tokens.begin(), context.domain_tokens.end())));
}

}  // namespace cadre::data
