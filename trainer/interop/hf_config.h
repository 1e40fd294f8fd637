// config.json of a published model, and Cadre's `model` and `moe` sections.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "trainer/interop/architecture.h"
#include "trainer/interop/float_format.h"

namespace cadre::interop {

struct HfModel {
  const Architecture* architecture = nullptr;
  trainer::ModelConfig model;
  std::optional<moe::MoeConfig> moe;  // balance and z-loss are training's, and left as Cadre's defaults
  int64_t max_positions = 0;          // max_position_embeddings
};
// Throws Error(kData) for what is missing or impossible, and for every option that would change numbers in a
// way that the model does not have (biases, sliding windows, clipped projections, quantised weights).
HfModel read_hf_config(const nlohmann::json& config, const std::string& where);

// `base` with all that describes the model set: the config.json that the model once had, or null. Throws
// Error(kUsage) when the model is of no known family.
nlohmann::json write_hf_config(nlohmann::json base, const HfModel& hf, FloatFormat format);

// The rotary part alone (hf_rope.cc).
trainer::RopeConfig read_hf_rope(const nlohmann::json& config, const std::string& where, double default_theta,
                                 int64_t max_positions);
void write_hf_rope(nlohmann::json& config, const trainer::RopeConfig& rope);

}  // namespace cadre::interop
