#include "trainer/interop/architecture.h"

#include "parallel/base/errors.h"

namespace cadre::interop {

using trainer::QkNorm;

const std::vector<Architecture>& architecture_table() {
  static const std::vector<Architecture> kTable = {
      {.model_type = "llama",
       .class_name = "LlamaForCausalLM",
       .experts = false,
       .dense_layers = true,
       .qk_norm = QkNorm::kNone,
       .theta = 1e4,
       .norm_eps = 1e-6},
      {.model_type = "qwen3",
       .class_name = "Qwen3ForCausalLM",
       .experts = false,
       .dense_layers = true,
       .qk_norm = QkNorm::kHead,
       .theta = 1e4,
       .norm_eps = 1e-6},
      {.model_type = "mixtral",
       .class_name = "MixtralForCausalLM",
       .experts = true,
       .dense_layers = false,
       .qk_norm = QkNorm::kNone,
       .theta = 1e6,
       .norm_eps = 1e-5,
       .num_experts_key = "num_local_experts",
       .width_key = "intermediate_size",
       .moe = "block_sparse_moe",
       .gate = "w1",
       .up = "w3",
       .down = "w2"},
      {.model_type = "olmoe",
       .class_name = "OlmoeForCausalLM",
       .experts = true,
       .dense_layers = false,
       .qk_norm = QkNorm::kFull,
       .theta = 1e4,
       .norm_eps = 1e-5,
       .num_experts_key = "num_experts",
       .width_key = "intermediate_size",
       .moe = "mlp"},
      {.model_type = "qwen3_moe",
       .class_name = "Qwen3MoeForCausalLM",
       .experts = true,
       .dense_layers = true,
       .qk_norm = QkNorm::kHead,
       .theta = 1e4,
       .norm_eps = 1e-6,
       .num_experts_key = "num_experts",
       .width_key = "moe_intermediate_size",
       .moe = "mlp"},
  };
  return kTable;
}

const Architecture& architecture_of(const std::string& model_type, const std::string& where) {
  std::vector<std::string> known;
  for (const Architecture& a : architecture_table()) {
    if (model_type == a.model_type) return a;
    known.push_back(a.model_type);
  }
  fail(ExitCode::kData, "{}: model_type is '{}', expected one of {}", where, model_type,
       fmt::join(known, ", "));
}

bool normalized_gates(const moe::MoeConfig& moe) {
  base::Section router(moe.router, moe.source, "moe.router");
  const std::string name = router.text("name", "softmax_topk");
  require(
      name == "softmax_topk", ExitCode::kUsage,
      "moe.router is {}, but no family of published models that is known here has it; only softmax_topk can "
      "be exported",
      name);
  return router.boolean("normalize", true);
}

const Architecture& architecture_for(const trainer::ModelConfig& model,
                                     const std::optional<moe::MoeConfig>& moe) {
  if (moe && moe->num_shared > 0) {
    fail(ExitCode::kUsage, "moe.num_shared is {}, but no family that is known here has shared experts",
         moe->num_shared);
  }
  int dense = 0;
  for (int layer = 0; layer < model.layers; ++layer) dense += !moe || !model.is_moe(layer);
  const bool normalize = !moe || normalized_gates(*moe), experts = dense < model.layers;
  for (const Architecture& a : architecture_table()) {
    if (a.experts != experts || a.qk_norm != model.qk_norm) continue;
    if (a.experts && dense > 0 && !a.dense_layers) continue;
    if (std::string(a.model_type) == "mixtral" && !normalize) continue;  // has no choice there
    return a;
  }
  fail(ExitCode::kUsage,
       "no family of published models has {} with qk_norm: {}, {} of {} layers dense, router.normalize: {}. "
       "Known: "
       "dense models with qk_norm none (llama) or head (qwen3); experts in every layer with qk_norm none and "
       "normalize true (mixtral), or with qk_norm full (olmoe); experts in any layers with qk_norm head "
       "(qwen3_moe)",
       experts ? "experts" : "no experts", trainer::qk_norm_name(model.qk_norm), dense, model.layers,
       normalize);
}

}  // namespace cadre::interop
