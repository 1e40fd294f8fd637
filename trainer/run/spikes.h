// Loss spikes: a step whose loss or gradient norm stands out from those before it, and what to do about it. Chowdhery et
// al. 2022 (PaLM, section 5.1) went back to a checkpoint about 100 steps before and left out the data around the spike,
// after which it did not come again; a spike needs the model's state and the batch together.
#pragma once

#include <deque>
#include <nlohmann/json.hpp>
#include <string>

#include "parallel/base/config.h"

namespace cadre::trainer {

enum class SpikePolicy { kOff, kSkip, kRollback, kStop };

struct SpikeConfig {
  SpikePolicy policy = SpikePolicy::kOff;
  double z = 6;      // standard deviations above the mean of the window
  int window = 100;  // accepted steps; nothing is suspicious before a fifth of them
  bool shadow =
      true;  // compute a suspicious step twice: other bits mean broken hardware, which stops the run
  int max_rollbacks = 5;
};
SpikeConfig read_spikes(base::Section section);
const char* name_of(SpikePolicy policy);

// The same on every rank, since it sees only numbers that all ranks share. Its history is part of a checkpoint.
class SpikeDetector {
 public:
  explicit SpikeDetector(const SpikeConfig& config) : config_(config) {}
  // Of the loss, and of the logarithm of the gradient norm (norms are skewed); the larger one. 0 while the window is
  // too short.
  double score(double loss, double grad_norm) const;
  bool suspicious(double loss, double grad_norm) const {
    return config_.policy != SpikePolicy::kOff && score(loss, grad_norm) > config_.z;
  }
  void accept(double loss, double grad_norm);
  nlohmann::json save() const;
  void load(const nlohmann::json& saved);  // throws json's exceptions

 private:
  void trim();
  SpikeConfig config_;
  std::deque<double> losses_, log_norms_;
};

}  // namespace cadre::trainer
