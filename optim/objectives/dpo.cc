// DPO (Rafailov et al. 2023, eq. 7) on pairs: z = beta [(S_c - S_c^ref) - (S_r - S_r^ref)], S the sum of a response's
// log-probabilities, L = mean over pairs of -ln sigmoid(z). cdpo (Mitchell 2023) and robust (Chowdhury et al. 2024, eq. 8)
// take labels that are wrong with probability e; ipo (Azar et al. 2024, eq. 17, lengths averaged as TRL does) has the
// squared loss (dc / T_c - dr / T_r - 1 / (2 beta))^2. A pair in which nothing is trained counts nowhere.
#include <algorithm>
#include <cmath>

#include "optim/objectives/makers.h"
#include "optim/objectives/segments.h"

namespace cadre::optim {
namespace {

enum class DpoLoss { kSigmoid, kCdpo, kRobust, kIpo };
struct DpoConfig {
  double beta = 0.1;
  DpoLoss loss = DpoLoss::kSigmoid;
  double label_smoothing = 0;
};

double log_sigmoid(double z) {
  return z >= 0 ? -std::log1p(std::exp(-z)) : z - std::log1p(std::exp(z));
}

struct Response {
  std::vector<size_t> live;
  double log_ratio = 0;  // sum of logp - logp_reference
};

template <class T>
class Dpo final : public Objective<T> {
 public:
  using W = device::wide_t<T>;
  explicit Dpo(const DpoConfig& config) : config_(config) {}
  ObjectiveInputs inputs() const override { return {.pairs = true, .reference = true}; }

  double loss_and_grad(device::View<const W, 1> logp, const Batch& batch, const BatchCounts& counts,
                       device::View<W, 1> dlogp) override {
    require_array(batch.logp_reference, size_t(batch.num_tokens()), "logp_ref",
                  "dpo compares with a frozen reference");
    std::fill_n(dlogp.data(), dlogp.size(), W(0));
    double loss = 0;
    size_t segments = 0;
    Response chosen;
    for_each_segment(batch, [&](size_t segment, const std::vector<size_t>& live) {
      ++segments;
      Response response{live, 0};
      for (size_t i : live) response.log_ratio += double(logp[int64_t(i)]) - batch.logp_reference[i];
      if (segment % 2 == 0) {
        chosen = std::move(response);
      } else {
        loss += pair(chosen, response, counts, dlogp);
      }
    });
    require(segments % 2 == 0, ExitCode::kData, "the batch has {} responses, expected pairs", segments);
    return loss;
  }

 private:
  double pair(const Response& c, const Response& r, const BatchCounts& counts, device::View<W, 1> dlogp) {
    for (const Response* response : {&c, &r}) {
      const double ratio = response->log_ratio;
      this->records_.push_back({.tokens = double(response->live.size()),
                                .advantage = config_.beta * ratio,
                                .log_w = ratio,
                                .log_ratio = ratio});
    }
    if ((c.live.empty() && r.live.empty()) || counts.pairs == 0) return 0;
    const double scale = 1 / double(counts.pairs);
    if (config_.loss == DpoLoss::kIpo) {
      const double tc = std::max<double>(1, double(c.live.size())),
                   tr = std::max<double>(1, double(r.live.size()));
      const double miss = c.log_ratio / tc - r.log_ratio / tr - 1 / (2 * config_.beta);
      write(c, scale * 2 * miss / tc, dlogp);
      write(r, -scale * 2 * miss / tr, dlogp);
      return scale * miss * miss;
    }
    const double z = config_.beta * (c.log_ratio - r.log_ratio), e = config_.label_smoothing;
    const double right = std::exp(log_sigmoid(-z)),
                 wrong = std::exp(log_sigmoid(z));  // of -ln sigmoid(z), (-z)
    double value = -log_sigmoid(z), dz = -right;
    if (config_.loss == DpoLoss::kCdpo) {
      value = -(1 - e) * log_sigmoid(z) - e * log_sigmoid(-z);
      dz = -((1 - e) * right - e * wrong);
    } else if (config_.loss == DpoLoss::kRobust) {
      value = (-(1 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (1 - 2 * e);
      dz = -((1 - e) * right + e * wrong) / (1 - 2 * e);
    }
    write(c, scale * config_.beta * dz, dlogp);
    write(r, -scale * config_.beta * dz, dlogp);
    return scale * value;
  }

  static void write(const Response& response, double gradient, device::View<W, 1> dlogp) {
    for (size_t i : response.live) dlogp[int64_t(i)] = W(gradient);
  }
  DpoConfig config_;
};

}  // namespace

template <class T>
std::unique_ptr<Objective<T>> make_dpo(base::Section section) {
  DpoConfig config;
  config.beta = section.number("beta", config.beta, {.above = 0});
  const std::string loss = section.choice("loss", "sigmoid", {"sigmoid", "cdpo", "robust", "ipo"});
  if (loss == "cdpo") config.loss = DpoLoss::kCdpo;
  if (loss == "robust") config.loss = DpoLoss::kRobust;
  if (loss == "ipo") config.loss = DpoLoss::kIpo;
  const bool smoothed = loss == "cdpo" || loss == "robust";
  config.label_smoothing = section.number("label_smoothing", 0, {.min = 0, .below = 0.5});
  if (config.label_smoothing > 0 && !smoothed) {
    section.reject("label_smoothing",
                   fmt::format("loss {} does not use it; choose cdpo or robust, or leave it out", loss));
  }
  section.finish();
  return std::make_unique<Dpo<T>>(config);
}
template std::unique_ptr<Objective<float>> make_dpo(base::Section);
template std::unique_ptr<Objective<double>> make_dpo(base::Section);

}  // namespace cadre::optim
