// What mixers share whose weights change: a vector of them as state, and a probe every so many steps.
#pragma once

#include "data/mixer.h"

namespace cadre::data {

class LearntMixer : public Mixer {
 public:
  // start: (K), sum 1, the weights until the first probe.
  LearntMixer(std::vector<double> start, double max_epochs) : w_(std::move(start)), max_epochs_(max_epochs) {}
  std::vector<double> weights(const Progress&) override { return w_; }
  double max_epochs() const override { return max_epochs_; }
  nlohmann::json save() const override { return {{"weights", w_}}; }
  void load(const nlohmann::json& state) override { w_ = domain_vector(state, "weights"); }

 protected:
  // A saved vector with a number for each domain, or Error(kCheckpoint).
  std::vector<double> domain_vector(const nlohmann::json& state, const char* key) const {
    const std::vector<double> values = state.at(key);
    require(values.size() == w_.size(), ExitCode::kCheckpoint,
            "the checkpoint's mixer has {} domains, this run {}; resume with the same data", values.size(),
            w_.size());
    return values;
  }
  // After each `period` steps, and not before the first.
  static bool every(int64_t period, const Progress& progress) {
    return progress.step > 0 && progress.step % uint64_t(period) == 0;
  }

  std::vector<double> w_;  // (K), sum 1

 private:
  double max_epochs_;
};

}  // namespace cadre::data
