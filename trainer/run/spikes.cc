#include "trainer/run/spikes.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace cadre::trainer {
namespace {

constexpr std::array<const char*, 4> kPolicies = {"off", "skip", "rollback", "stop"};

double z_score(const std::deque<double>& window, double value) {
  double mean = 0, squares = 0;
  for (const double x : window) mean += x / double(window.size());
  for (const double x : window) squares += (x - mean) * (x - mean);
  // A window without spread must not make a spike of rounding.
  const double deviation =
      std::max(std::sqrt(squares / double(window.size())), 1e-3 * std::abs(mean) + 1e-12);
  return (value - mean) / deviation;
}

double log_of(double norm) {
  return std::log(std::max(norm, 1e-30));
}

}  // namespace

SpikeConfig read_spikes(base::Section s) {
  SpikeConfig c;
  const std::string policy = s.choice("policy", name_of(c.policy), {kPolicies.begin(), kPolicies.end()});
  c.policy = SpikePolicy(std::find(kPolicies.begin(), kPolicies.end(), policy) - kPolicies.begin());
  c.z = s.number("z", c.z, {.above = 0});
  c.window = int(s.integer("window", c.window, {.min = 10, .max = 100000}));
  c.shadow = s.boolean("shadow", c.shadow);
  c.max_rollbacks = int(s.integer("max_rollbacks", c.max_rollbacks, {.min = 1, .max = 1000000}));
  s.finish();
  return c;
}

const char* name_of(SpikePolicy policy) {
  return kPolicies[size_t(policy)];
}

double SpikeDetector::score(double loss, double grad_norm) const {
  if (losses_.size() < size_t(std::max(10, config_.window / 5))) return 0;
  return std::max(z_score(losses_, loss), z_score(log_norms_, log_of(grad_norm)));
}

void SpikeDetector::accept(double loss, double grad_norm) {
  losses_.push_back(loss);
  log_norms_.push_back(log_of(grad_norm));
  trim();
}

void SpikeDetector::trim() {
  while (losses_.size() > size_t(config_.window)) {
    losses_.pop_front();
    log_norms_.pop_front();
  }
}

nlohmann::json SpikeDetector::save() const {
  return {{"losses", losses_}, {"log_norms", log_norms_}};
}

void SpikeDetector::load(const nlohmann::json& saved) {
  losses_ = saved.at("losses").get<std::deque<double>>();
  log_norms_ = saved.at("log_norms").get<std::deque<double>>();
  log_norms_.resize(losses_.size(), 0);
  trim();  // the window of an earlier run file may have been longer
}

}  // namespace cadre::trainer
