// Which element of which published tensor each of Cadre's parameters is.
#include <span>
#include <string_view>

#include "parallel/base/errors.h"
#include "trainer/interop/architecture.h"

namespace cadre::interop {
namespace {

using device::ParamRow;

// Cadre's names under a layer and theirs, where all families agree.
struct NamePair {
  const char* ours;
  const char* theirs;
};
constexpr NamePair kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"attn.wq", "self_attn.q_proj.weight"},
    {"attn.wk", "self_attn.k_proj.weight"},
    {"attn.wv", "self_attn.v_proj.weight"},
    {"attn.wo", "self_attn.o_proj.weight"},
    {"attn.q_norm.weight", "self_attn.q_norm.weight"},
    {"attn.k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn.w_gate", "mlp.gate_proj.weight"},
    {"ffn.w_up", "mlp.up_proj.weight"},
    {"ffn.w_down", "mlp.down_proj.weight"},
};
constexpr NamePair kTopNames[] = {
    {"embed.weight", "model.embed_tokens.weight"},
    {"final_norm.weight", "model.norm.weight"},
    {"head.weight", "lm_head.weight"},
};
constexpr std::string_view kRouter = "moe.router.weight", kExperts = "moe.experts.";

[[noreturn]] void no_place(const std::string& name, const Architecture& a) {
  fail(ExitCode::kUsage, "parameter {} has no place in a model of type {}", name, a.model_type);
}

// The matrix of expert e; the same for all of them when a dense model is the source.
std::string expert_name(const Architecture& a, const std::string& layer, std::string_view matrix, int64_t e) {
  const char* name = matrix == "w_gate" ? a.gate : matrix == "w_up" ? a.up : a.down;
  return a.experts ? fmt::format("{}{}.experts.{}.{}.weight", layer, a.moe, e, name)
                   : fmt::format("{}mlp.{}.weight", layer, name);
}

void add_experts(const Architecture& a, const std::string& layer, std::string_view matrix,
                 const ParamRow& row, TensorLink link, std::vector<TensorLink>& links) {
  link.their_shape = {row.shape.begin() + 1, row.shape.end()};
  for (int64_t e = 0; e < row.shape[0]; ++e) {
    link.theirs = expert_name(a, layer, matrix, e);
    link.begin = e * (row.numel() / row.shape[0]);
    links.push_back(link);
  }
}

// "layers.3.attn.wq" gives "model.layers.3." and leaves "attn.wq".
std::string take_layer(std::string_view& name) {
  constexpr std::string_view kLayers = "layers.";
  if (!name.starts_with(kLayers)) return "";
  const size_t dot = name.find('.', kLayers.size());
  const std::string layer = fmt::format("model.{}", name.substr(0, dot + 1));
  name.remove_prefix(dot + 1);
  return layer;
}

void add_links(const Architecture& a, const ParamRow& row, TensorLink link, std::vector<TensorLink>& links) {
  std::string_view name = row.name;
  const std::string layer = take_layer(name);
  if (name.starts_with(kExperts)) {
    return add_experts(a, layer, name.substr(kExperts.size()), row, std::move(link), links);
  }
  link.their_shape = row.shape;
  if (name == kRouter) {
    if (a.experts) link.theirs = fmt::format("{}{}.gate.weight", layer, a.moe);
    links.push_back(link);
    return;
  }
  for (const NamePair& pair : layer.empty() ? std::span<const NamePair>(kTopNames) : kLayerNames) {
    if (name != pair.ours) continue;
    link.theirs = layer + pair.theirs;
    links.push_back(link);
    return;
  }
  no_place(row.name, a);
}

}  // namespace

int64_t TensorLink::numel() const {
  int64_t n = 1;
  for (const int64_t d : their_shape) n *= d;
  return n;
}

std::vector<TensorLink> tensor_links(const Architecture& architecture, const device::ParamTable& table) {
  std::vector<TensorLink> links;
  for (int id = 0; id < int(table.rows().size()); ++id) {
    add_links(architecture, table.row(id), {.theirs = "", .their_shape = {}, .row = id}, links);
  }
  return links;
}

}  // namespace cadre::interop
