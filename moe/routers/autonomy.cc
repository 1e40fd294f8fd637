// Autonomy of Experts (Lv et al. 2025, arXiv 2501.13074, section 3): there is no router matrix. Every expert
// has a low-rank first step, h_e = W_down,e x (r numbers), which every rank computes for all experts; experts
// are ranked by |h_e|, the K largest are chosen, and g = softmax of the chosen norms. A chosen expert goes on
// from h_e instead of starting again: its gate branch reads h_e, its up branch reads x. The norms are
// activations and not free logits, so no z-loss pulls at them.
#include "moe/routers/makers.h"
#include "moe/routers/scored_router.h"

namespace cadre::moe {
namespace {

struct AutonomyConfig {
  int64_t rank = 64;  // r
};

template <class T>
class Autonomy final : public ScoredRouter<T> {
 public:
  using typename Router<T>::W;
  Autonomy(const AutonomyConfig& config, const RouterShape<T>& shape)
      : ScoredRouter<T>(shape, {.kind = ScoreRule::kSoftmax, .share = true}), config_(config) {}

  int64_t hint_width() const override { return config_.rank; }

  void declare(device::ParamTable& table, const std::string& prefix, int bucket) override {
    row_ = table.add({.name = prefix + ".router.w_down",
                      .shape = {this->shape_.num_experts, config_.rank, this->shape_.dim},
                      .group = device::Group::kDense,
                      .init = {device::Init::kNormal, kRouterInitStd},
                      .decay = true,
                      .update = device::Update::kElement,
                      .bucket = bucket});
  }
  void bind(device::ParamStore<T>& store) override {
    const std::array<int64_t, 2> flat = {this->shape_.num_experts * config_.rank, this->shape_.dim};
    weight_ = store.template value<3>(row_).template reshape<2>(flat);
    if (store.grads(device::Group::kDense).data() != nullptr)
      dweight_ = store.template grad<3>(row_).template reshape<2>(flat);
  }
  void reserve(device::Arena& saved, device::Arena& scratch) override {
    ScoredRouter<T>::reserve(saved, scratch);
    hidden_ = saved.take<T, 3>({this->shape_.max_tokens, this->shape_.num_experts, config_.rank});
    hints_ = saved.take<T, 2>({this->max_slots(), config_.rank});
  }

 protected:
  bool has_z_loss() const override { return false; }

  void write_logits(device::Queue& queue, device::View<const T, 2> x, device::View<const int32_t, 1> segment,
                    device::View<W, 2> logits) override {
    const auto h = hidden_.rows(0, x.dim(0));
    if (x.dim(0) > 0) this->shape_.dense->gemm(queue, x, weight_, flat(h), {.transpose_b = true});
    this->kernels().block_norms(queue, h, segment, logits);
    norms_ = logits;
  }
  void choose(device::Queue& queue, device::View<const int32_t, 1> segment, const ScoreViews<T>& views,
              Routing<T>& routing) override {
    ScoredRouter<T>::choose(queue, segment, views, routing);
    routing.slot_hint = hints_;
    this->kernels().gather_hints(queue, hidden_.rows(0, routing.num_tokens), routing, hints_);
  }
  void logits_backward(device::Queue& queue, device::View<const T, 2> x, device::View<const W, 2> dlogits,
                       const RoutingGrad<T>& grad, device::View<T, 2> dx, device::Tap<T>* tap) override {
    const int64_t tokens = x.dim(0);
    const auto h = hidden_.rows(0, tokens);  // becomes dL/dh
    this->kernels().block_norms_backward(queue, dlogits, norms_, this->routing(), grad.slot_hint, h);
    if (tap) tap->on_linear(row_, x, flat(h), nullptr, {});
    if (tokens == 0) return;
    this->shape_.dense->gemm(queue, flat(h), weight_, dx, {.beta = 1});
    this->shape_.dense->gemm(queue, flat(h), x, dweight_, {.transpose_a = true, .beta = 1});
  }

 private:
  device::View<T, 2> flat(const device::View<T, 3>& h) const {
    return h.template reshape<2>({h.dim(0), h.dim(1) * h.dim(2)});
  }

  AutonomyConfig config_;
  int row_ = -1;
  device::View<T, 2> weight_, dweight_;  // (E r, D)
  device::View<T, 3> hidden_;            // (T, E, r)
  device::View<const W, 2> norms_;       // (T, E) the logits of the last forward
  device::View<T, 2> hints_;             // (A, r)
};

}  // namespace

template <class T>
std::unique_ptr<Router<T>> make_autonomy(base::Section section, const RouterShape<T>& shape) {
  AutonomyConfig config;
  config.rank = section.integer("rank", config.rank, {.min = 1});
  section.finish();
  return std::make_unique<Autonomy<T>>(config, shape);
}
template std::unique_ptr<Router<float>> make_autonomy(base::Section, const RouterShape<float>&);
template std::unique_ptr<Router<double>> make_autonomy(base::Section, const RouterShape<double>&);
template std::unique_ptr<Router<device::bf16>> make_autonomy(base::Section, const RouterShape<device::bf16>&);

}  // namespace cadre::moe
