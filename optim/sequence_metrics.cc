#include "optim/sequence_metrics.h"

#include <algorithm>
#include <cmath>

namespace cadre::optim {
namespace {

using Values = std::vector<double>;

double mean(const Values& x) {
  double sum = 0;
  for (double v : x) sum += v;
  return sum / double(x.size());
}
// Dividing by n - 1, as the published code does; 0 for one value.
double deviation(const Values& x) {
  if (x.size() < 2) return 0;
  const double m = mean(x);
  double squares = 0;
  for (double v : x) squares += (v - m) * (v - m);
  return std::sqrt(squares / double(x.size() - 1));
}
double most(const Values& x) {
  return *std::max_element(x.begin(), x.end());
}
double least(const Values& x) {
  return *std::min_element(x.begin(), x.end());
}

struct Columns {
  Values w, log_w, log_ratio, log_tis, tis, phi, kl, tokens;
};
Columns columns(std::span<const SequenceRecord> records, bool (*keep)(const SequenceRecord&)) {
  Columns c;
  for (const SequenceRecord& r : records) {
    if (r.tokens == 0 || !keep(r)) continue;
    c.w.push_back(std::exp(r.log_w));
    c.log_w.push_back(r.log_w);
    c.log_ratio.push_back(r.log_ratio);
    c.log_tis.push_back(r.log_tis);
    c.tis.push_back(std::exp(r.log_tis));
    c.phi.push_back(r.phi);
    c.kl.push_back(-r.log_ratio / r.tokens);
    c.tokens.push_back(r.tokens);
  }
  return c;
}

void add_sign(NamedValues& out, const std::string& sign, const Columns& c) {
  out.emplace_back("sequences_" + sign, double(c.w.size()));
  if (c.w.empty()) return;
  out.emplace_back("w_" + sign + "_mean", mean(c.w));
  out.emplace_back("phi_" + sign + "_mean", mean(c.phi));
}

// Kish's effective sample size over the number of samples, of weights exp(log w). Shifted by the largest: W up
// to e^20 squared is no trouble in double, but a sum of e^-20 alone would lose digits to nothing.
double ess_fraction(const Values& log_w) {
  const double shift = most(log_w);
  double sum = 0, squares = 0;
  for (double x : log_w) {
    sum += std::exp(x - shift);
    squares += std::exp(2 * (x - shift));
  }
  return sum * sum / (double(log_w.size()) * squares);
}

}  // namespace

NamedValues policy_metrics(std::span<const SequenceRecord> records) {
  const Columns all = columns(records, [](const SequenceRecord&) { return true; });
  NamedValues out = {{"sequences", double(all.w.size())}};
  if (all.w.empty()) return out;
  double small = 0, farthest = 0;
  for (double p : all.phi) small += p < 0.01 ? 1 : 0;
  for (double x : all.log_ratio) farthest = std::max(farthest, std::abs(x));
  out.insert(out.end(), {{"length_mean", mean(all.tokens)},
                         {"approx_kl", mean(all.kl)},
                         {"w_mean", mean(all.w)},
                         {"w_max", most(all.w)},
                         {"w_min", least(all.w)},
                         {"w_std", deviation(all.w)},
                         {"log_w_mean", mean(all.log_w)},
                         {"log_w_max", most(all.log_w)},
                         {"log_w_min", least(all.log_w)},
                         {"log_w_std", deviation(all.log_w)},
                         {"log_w_max_abs", farthest},
                         {"phi_mean", mean(all.phi)},
                         {"phi_max", most(all.phi)},
                         {"phi_min", least(all.phi)},
                         {"phi_small_fraction", small / double(all.phi.size())},
                         {"ess_fraction", ess_fraction(all.log_w)}});
  add_sign(out, "positive", columns(records, [](const SequenceRecord& r) { return r.advantage >= 0; }));
  add_sign(out, "negative", columns(records, [](const SequenceRecord& r) { return r.advantage < 0; }));
  const Columns noise =
      columns(records, [](const SequenceRecord& r) { return r.advantage < 0 && r.log_w > std::log(100.0); });
  out.emplace_back("negative_noise_count", double(noise.w.size()));
  if (!noise.w.empty()) {
    out.emplace_back("negative_noise_w_max", most(noise.w));
    out.emplace_back("negative_noise_phi_mean", mean(noise.phi));
  }
  if (std::any_of(all.log_tis.begin(), all.log_tis.end(), [](double x) { return x != 0; })) {
    out.insert(out.end(), {{"log_tis_mean", mean(all.log_tis)},
                           {"log_tis_max", most(all.log_tis)},
                           {"log_tis_min", least(all.log_tis)},
                           {"tis_mean", mean(all.tis)},
                           {"tis_max", most(all.tis)}});
  }
  return out;
}

NamedValues pair_metrics(std::span<const SequenceRecord> records) {
  double pairs = 0, chosen = 0, rejected = 0, right = 0;
  for (size_t i = 0; i + 1 < records.size(); i += 2) {
    const SequenceRecord &c = records[i], &r = records[i + 1];
    if (c.tokens == 0 && r.tokens == 0) continue;
    pairs += 1;
    chosen += c.advantage;
    rejected += r.advantage;
    right += c.advantage > r.advantage ? 1 : 0;
  }
  NamedValues out = {{"pairs", pairs}};
  if (pairs == 0) return out;
  out.insert(out.end(), {{"reward_chosen_mean", chosen / pairs},
                         {"reward_rejected_mean", rejected / pairs},
                         {"reward_margin_mean", (chosen - rejected) / pairs},
                         {"accuracy", right / pairs}});
  return out;
}

}  // namespace cadre::optim
