// The published families of decoders that Cadre's model can be: what they fix, what they call things. One table
// row a family, in architecture.cc.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "moe/config.h"
#include "parallel/device/param_table.h"
#include "trainer/model/config.h"

namespace cadre::interop {

struct Architecture {
  const char* model_type;  // of config.json
  const char* class_name;  // in transformers
  bool experts;            // false: dense
  bool dense_layers;       // some layers may be without experts
  trainer::QkNorm qk_norm;
  // What it does when config.json does not say.
  double theta, norm_eps;
  // Keys of config.json, and names under a layer; null in dense families.
  const char *num_experts_key = nullptr, *width_key = nullptr;
  const char* moe = nullptr;  // "mlp" in "model.layers.3.mlp.experts.0.gate_proj.weight"
  const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";
};
const std::vector<Architecture>& architecture_table();
// By config.json's model_type; throws Error(kData) listing the known ones.
const Architecture& architecture_of(const std::string& model_type, const std::string& where);
// The one whose rules are this model's; throws Error(kUsage) that says what stands in the way.
const Architecture& architecture_for(const trainer::ModelConfig& model,
                                     const std::optional<moe::MoeConfig>& moe);
// The router's option `normalize`; throws Error(kUsage) for a router that no family has.
bool normalized_gates(const moe::MoeConfig& moe);

// One published tensor and the elements [begin, begin + numel) of one of Cadre's, flattened, that it is.
struct TensorLink {
  std::string theirs;  // empty: not in the files, made here (the router of an upcycled model)
  std::vector<int64_t> their_shape;
  int row = 0;  // of the ParamTable
  int64_t begin = 0;
  int64_t numel() const;
};
// All elements of all rows once, in the table's order. With a dense family and a table with experts, every
// expert is the dense layer (upcycling).
std::vector<TensorLink> tensor_links(const Architecture& architecture, const device::ParamTable& table);

}  // namespace cadre::interop
