// The routers by name. A new one is a file in this folder, a line in makers.h and a row here.
#include "moe/routers/makers.h"
#include "parallel/base/named_entry.h"

namespace cadre::moe {

template <class T>
const std::vector<base::Entry<RouterMaker<T>>>& router_table() {
  static const std::vector<base::Entry<RouterMaker<T>>> kTable = {
      {"softmax_topk", "softmax, then the top k; normalize: true (Mixtral, Qwen3-MoE) or false (OLMoE)",
       make_softmax_topk<T>},
      {"sigmoid_bias", "sigmoid scores, selection bias without a loss, groups (DeepSeek-V3)",
       make_sigmoid_bias<T>},
      {"expert_choice", "experts choose tokens; training only, needs balance: none", make_expert_choice<T>},
      {"autonomy", "experts ranked by the norm of their own first activation (Autonomy of Experts)",
       make_autonomy<T>},
  };
  return kTable;
}

template <class T>
std::unique_ptr<Router<T>> make_router(const MoeConfig& config, const RouterShape<T>& shape) {
  base::Section section(config.router, config.source, "moe.router");
  const std::string name = section.text("name", "softmax_topk");
  return base::find_entry(router_table<T>(), "router", section, name).make(section, shape);
}

template const std::vector<base::Entry<RouterMaker<float>>>& router_table<float>();
template const std::vector<base::Entry<RouterMaker<double>>>& router_table<double>();
template const std::vector<base::Entry<RouterMaker<device::bf16>>>& router_table<device::bf16>();
template std::unique_ptr<Router<float>> make_router(const MoeConfig&, const RouterShape<float>&);
template std::unique_ptr<Router<double>> make_router(const MoeConfig&, const RouterShape<double>&);
template std::unique_ptr<Router<device::bf16>> make_router(const MoeConfig&,
                                                           const RouterShape<device::bf16>&);

}  // namespace cadre::moe
