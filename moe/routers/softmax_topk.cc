// Softmax over all experts, then the K best.
//   normalize: true   g = p / (sum of p over the chosen): Mixtral (Jiang et al. 2024, arXiv 2401.04088,
//   section 2.1, where it
//                     is written as a softmax over the chosen logits) and Qwen3-MoE (arXiv 2505.09388)
//   normalize: false  g = p: OLMoE (Muennighoff et al. 2024, arXiv 2409.02060, eq. 2)
#include "moe/routers/makers.h"
#include "moe/routers/scored_router.h"

namespace cadre::moe {
namespace {

struct SoftmaxTopKConfig {
  bool normalize = true;
};

template <class T>
class SoftmaxTopK final : public LinearRouter<T> {
 public:
  SoftmaxTopK(const SoftmaxTopKConfig& config, const RouterShape<T>& shape)
      : LinearRouter<T>(shape, {.kind = ScoreRule::kSoftmax, .share = config.normalize}) {}
};

}  // namespace

template <class T>
std::unique_ptr<Router<T>> make_softmax_topk(base::Section section, const RouterShape<T>& shape) {
  SoftmaxTopKConfig config;
  config.normalize = section.boolean("normalize", config.normalize);
  section.finish();
  return std::make_unique<SoftmaxTopK<T>>(config, shape);
}
template std::unique_ptr<Router<float>> make_softmax_topk(base::Section, const RouterShape<float>&);
template std::unique_ptr<Router<double>> make_softmax_topk(base::Section, const RouterShape<double>&);
template std::unique_ptr<Router<device::bf16>> make_softmax_topk(base::Section,
                                                                 const RouterShape<device::bf16>&);

}  // namespace cadre::moe
