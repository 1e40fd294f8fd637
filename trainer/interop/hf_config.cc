#include "trainer/interop/hf_config.h"

#include <algorithm>

#include "data/tokenizers/json_fields.h"
#include "parallel/base/errors.h"
#include "trainer/interop/json_numbers.h"

namespace cadre::interop {
namespace {

using data::JsonFields;
using nlohmann::json;
using trainer::ModelConfig;

constexpr int64_t kMaxSize = 1 << 24;  // as in read_model, which checks how sizes fit together
constexpr int64_t kMaxLayers = 4096;

// Options that would change numbers and that the model has no place for.
void refuse_options(const JsonFields& c) {
  for (const char* key : {"attention_bias", "mlp_bias", "use_sliding_window"}) {
    if (c.flag(key, false)) c.refuse(key, "false");
  }
  if (c.has("clip_qkv")) c.refuse("clip_qkv", "null: projections are not clipped");
  if (c.has("quantization_config")) c.refuse("quantization_config", "none; convert the weights first");
  if (c.has("hidden_act") && c.text("hidden_act") != "silu") c.refuse("hidden_act", "silu");
  // Qwen3 lists a window that use_sliding_window turns off.
  if (c.has("sliding_window") && !c.has("use_sliding_window")) {
    c.refuse("sliding_window", "null: attention reaches back without a limit");
  }
  if (!c.has("layer_types")) return;
  for (const json& kind : c.list("layer_types")) {
    if (kind != "full_attention") c.refuse("layer_types", "full_attention everywhere");
  }
}

// Which layers have experts (Qwen3-MoE's rule; the other families have them everywhere or nowhere).
std::vector<bool> expert_layers(const JsonFields& c, const Architecture& a, int layers) {
  std::vector<bool> experts(size_t(layers), a.experts);
  if (!a.experts || !a.dense_layers) return experts;
  const int64_t step = std::max<int64_t>(1, integer_or(c, "decoder_sparse_step", kMaxLayers, 1));
  for (int i = 0; i < layers; ++i) experts[size_t(i)] = (i + 1) % step == 0;
  if (!c.has("mlp_only_layers")) return experts;
  for (const json& layer : c.list("mlp_only_layers")) {
    const bool fits = layer.is_number_integer() && layer >= 0 && layer < layers;
    if (!fits) c.refuse("mlp_only_layers", "numbers of layers");
    experts[layer.get<size_t>()] = false;
  }
  return experts;
}

// The same as a number of dense layers and a stride after them.
void set_expert_layers(const std::vector<bool>& experts, const JsonFields& c, ModelConfig& model) {
  const auto first = std::find(experts.begin(), experts.end(), true);
  require(first != experts.end(), ExitCode::kData, "{}: no layer has experts", c.where());
  const auto second = std::find(first + 1, experts.end(), true);
  model.first_dense_layers = int(first - experts.begin());
  model.moe_every = second == experts.end() ? int(experts.size()) : int(second - first);
  for (int i = 0; i < model.layers; ++i) {
    require(model.is_moe(i) == experts[size_t(i)], ExitCode::kData,
            "{}: layer {} {} experts, which does not follow from the layers before it; expected some dense "
            "layers, "
            "then experts in every n-th",
            c.where(), i, experts[size_t(i)] ? "has" : "has no");
  }
}

moe::MoeConfig read_experts(const JsonFields& c, const Architecture& a) {
  moe::MoeConfig moe;
  moe.source = c.where();
  // One spelling or the other, by the version that wrote it.
  const char* other = std::string(a.num_experts_key) == "num_experts" ? "num_local_experts" : "num_experts";
  moe.num_experts = int(c.number(c.has(a.num_experts_key) ? a.num_experts_key : other, 1, 65536));
  moe.top_k = int(c.number("num_experts_per_tok", 1, moe.num_experts));
  moe.width = int(c.number(a.width_key, 1, kMaxSize));
  moe.router["name"] = "softmax_topk";
  const bool always = std::string(a.model_type) == "mixtral";
  moe.router["normalize"] = always || c.flag("norm_topk_prob", false) ? "true" : "false";
  return moe;
}

ModelConfig read_sizes(const JsonFields& c, const Architecture& a) {
  ModelConfig m;
  m.vocab = c.number("vocab_size", 1, kMaxSize);
  m.dim = c.number("hidden_size", 1, kMaxSize);
  m.layers = int(c.number("num_hidden_layers", 1, kMaxLayers));
  m.heads = int(c.number("num_attention_heads", 1, kMaxSize));
  m.kv_heads = int(integer_or(c, "num_key_value_heads", kMaxSize, m.heads));
  m.head_dim = int(integer_or(c, "head_dim", kMaxSize, m.dim % m.heads == 0 ? m.dim / m.heads : 0));
  m.ffn_width = c.number("intermediate_size", 1, kMaxSize);
  m.qk_norm = a.qk_norm;
  m.tie_head = c.flag("tie_word_embeddings", false);
  m.norm_eps = real_or(c, "rms_norm_eps", a.norm_eps);
  m.init_std = real_or(c, "initializer_range", m.init_std);
  return m;
}

// The weight of a norm over the whole projection is as wide as the model there.
void check_norm_width(const ModelConfig& m, ExitCode code, const std::string& where) {
  require(m.qk_norm != trainer::QkNorm::kFull || m.heads * m.head_size() == m.dim, code,
          "{}: {} heads of size {} in a model of width {}; olmoe has heads that add up to its width", where,
          m.heads, m.head_size(), m.dim);
}

void write_experts(json& config, const Architecture& a, const ModelConfig& m, const moe::MoeConfig& moe) {
  config.erase("num_experts");
  config.erase("num_local_experts");
  config[a.num_experts_key] = moe.num_experts;
  config["num_experts_per_tok"] = moe.top_k;
  config[a.width_key] = moe.width;
  if (std::string(a.model_type) != "mixtral") config["norm_topk_prob"] = normalized_gates(moe);
  if (!a.dense_layers) return;
  json dense = json::array();
  for (int i = 0; i < m.layers; ++i) {
    if (!m.is_moe(i)) dense.push_back(i);
  }
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = dense;
}

}  // namespace

HfModel read_hf_config(const json& config, const std::string& where) {
  const JsonFields c(config, where);
  HfModel hf;
  hf.architecture = &architecture_of(c.text("model_type"), where);
  const Architecture& a = *hf.architecture;
  refuse_options(c);
  hf.model = read_sizes(c, a);
  constexpr int64_t kMaxPositions = int64_t(1) << 40;
  hf.max_positions = integer_or(c, "max_position_embeddings", kMaxPositions, 2048);
  hf.model.rope = read_hf_rope(config, where, a.theta, hf.max_positions);
  check_norm_width(hf.model, ExitCode::kData, where);
  if (!a.experts) return hf;
  hf.moe = read_experts(c, a);
  set_expert_layers(expert_layers(c, a, hf.model.layers), c, hf.model);
  return hf;
}

json write_hf_config(json base, const HfModel& hf, FloatFormat format) {
  const Architecture& a = *hf.architecture;
  const ModelConfig& m = hf.model;
  check_norm_width(m, ExitCode::kUsage, "cannot be exported");
  json config = base.is_object() ? std::move(base) : json::object();
  config.erase("transformers_version");
  config["architectures"] = {a.class_name};
  config["model_type"] = a.model_type;
  config["vocab_size"] = m.vocab;
  config["hidden_size"] = m.dim;
  config["num_hidden_layers"] = m.layers;
  config["num_attention_heads"] = m.heads;
  config["num_key_value_heads"] = m.kv_heads;
  config["head_dim"] = m.head_size();
  config["intermediate_size"] = m.ffn_width;
  config["hidden_act"] = "silu";
  config["max_position_embeddings"] = hf.max_positions;
  config["rms_norm_eps"] = m.norm_eps;
  config["initializer_range"] = m.init_std;
  config["tie_word_embeddings"] = m.tie_head;
  config["attention_bias"] = false;
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name_of(format);
  write_hf_rope(config, m.rope);
  if (hf.moe) write_experts(config, a, m, *hf.moe);
  return config;
}

}  // namespace cadre::interop
