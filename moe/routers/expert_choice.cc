// Expert choice (Zhou et al. 2022, arXiv 2202.09368, section 3.2): S = softmax over the experts of z; every
// expert takes its C = ceil(T c / E) best tokens by its column of S, and g = S there. c, the mean number of
// experts a token gets, is moe.top_k; T counts the real tokens of this rank's micro-batch, so the result
// depends on the split. A token's experts depend on later tokens of the batch: for training and ablations
// only. The load is even by construction: no balance loss.
#include <algorithm>

#include "moe/routers/makers.h"
#include "moe/routers/scored_router.h"

namespace cadre::moe {
namespace {

template <class T>
class ExpertChoice final : public LinearRouter<T> {
 public:
  explicit ExpertChoice(const RouterShape<T>& shape)
      : LinearRouter<T>(shape, {.kind = ScoreRule::kSoftmax, .share = false}) {}

  int64_t max_slots() const override {
    return this->shape_.num_experts * std::min(capacity(this->shape_.max_tokens), this->shape_.max_tokens);
  }
  void reserve(device::Arena& saved, device::Arena& scratch) override {
    LinearRouter<T>::reserve(saved, scratch);
    order_ = scratch.take<int32_t, 2>({this->shape_.num_experts, this->shape_.max_tokens});
  }
  bool causal() const override { return false; }
  bool split_dependent() const override { return true; }

 protected:
  void choose(device::Queue& queue, device::View<const int32_t, 1> segment, const ScoreViews<T>& views,
              Routing<T>& routing) override {
    const int64_t most = capacity(routing.num_real);
    routing.num_slots = routing.num_experts * std::min(most, routing.num_real);
    this->kernels().score(queue, this->rule_, segment, views);
    this->kernels().expert_choice_slots(queue, most, segment, order_, views, routing);
  }

 private:
  int64_t capacity(int64_t tokens) const {
    return (tokens * this->shape_.top_k + this->shape_.num_experts - 1) / this->shape_.num_experts;
  }
  device::View<int32_t, 2> order_;
};

}  // namespace

template <class T>
std::unique_ptr<Router<T>> make_expert_choice(base::Section section, const RouterShape<T>& shape) {
  section.finish();
  return std::make_unique<ExpertChoice<T>>(shape);
}
template std::unique_ptr<Router<float>> make_expert_choice(base::Section, const RouterShape<float>&);
template std::unique_ptr<Router<double>> make_expert_choice(base::Section, const RouterShape<double>&);
template std::unique_ptr<Router<device::bf16>> make_expert_choice(base::Section,
                                                                  const RouterShape<device::bf16>&);

}  // namespace cadre::moe
