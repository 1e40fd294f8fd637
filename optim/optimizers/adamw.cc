#include "optim/optimizers/adamw.h"

#include <algorithm>
#include <cmath>

namespace cadre::optim {
namespace {

using device::Group;
using device::View;

template <class T>
class AdamW final : public Optimizer<device::wide_t<T>> {
 public:
  using W = device::wide_t<T>;
  AdamW(const AdamWConfig& config, OptimizerContext<T> context)
      : config_(config), context_(std::move(context)) {
    for (int g = 0; g < device::kNumGroups; ++g) {
      const int64_t size = context_.state_size[g];
      const auto kind = context_.queue ? context_.queue->kind() : device::DeviceKind::kCpu;
      for (auto* memory : {&m_[g], &v_[g]}) *memory = device::Buffer(kind, size_t(size) * sizeof(W));
    }
  }

  void step(double lr, double grad_scale) override {
    ++this->updates_;
    for (int g = 0; g < device::kNumGroups; ++g) {
      for (const comm::Piece& piece : context_.pieces[g]) {
        adamw_piece(context_, config_, Group(g), piece, lr, grad_scale, this->updates_, view(m_[g], Group(g)),
                    view(v_[g], Group(g)));
      }
    }
  }

  std::vector<std::string> state_names() const override { return {"m", "v"}; }
  View<W, 1> state(const std::string& name, Group group) override {
    return view(name == "m" ? m_[int(group)] : v_[int(group)], group);
  }
  void precondition(Group group, const comm::Piece& piece, View<const W, 1> grad,
                    View<W, 1> out) const override {
    adamw_precondition<T>(config_, this->updates_,
                          view(v_[int(group)], group).rows(piece.state_offset, piece.count), grad, out);
  }

 private:
  View<W, 1> view(const device::Buffer& memory, Group group) const {
    return View<W, 1>(reinterpret_cast<W*>(memory.data()), {context_.state_size[int(group)]});
  }

  AdamWConfig config_;
  OptimizerContext<T> context_;
  device::Buffer m_[device::kNumGroups], v_[device::kNumGroups];
};

}  // namespace

AdamWConfig read_adamw(base::Section& section) {
  AdamWConfig c;
  const std::vector<double> betas = section.numbers("betas", {c.beta1, c.beta2}, {.min = 0, .below = 1});
  if (betas.size() != 2) section.reject("betas", fmt::format("expected two numbers, found {}", betas.size()));
  c.beta1 = betas[0];
  c.beta2 = betas[1];
  c.eps = section.number("eps", c.eps, {.above = 0});
  c.weight_decay = section.number("weight_decay", c.weight_decay, {.min = 0});
  return c;
}

template <class T>
void adamw_piece(const OptimizerContext<T>& context, const AdamWConfig& config, Group group,
                 const comm::Piece& piece, double lr, double grad_scale, int64_t updates,
                 View<device::wide_t<T>, 1> m, View<device::wide_t<T>, 1> v) {
  const device::ParamRow& row = context.store->layout().table().row(piece.row);
  const AdamWStep step = {.lr = lr,
                          .beta1 = config.beta1,
                          .beta2 = config.beta2,
                          .eps = config.eps,
                          .weight_decay = row.decay ? config.weight_decay : 0,
                          .grad_scale = grad_scale,
                          .correction1 = 1 - std::pow(config.beta1, double(updates)),
                          .correction2 = 1 - std::pow(config.beta2, double(updates)),
                          .stochastic = false,
                          .seed = 0,
                          .first = piece.group_offset};
  const auto part = [&](const auto& view) { return view.rows(piece.group_offset, piece.count); };
  AdamWTensors<T> tensors{.grad = part(context.store->grads(group)),
                          .grad_sum = {},
                          .value = part(context.store->values(group)),
                          .master = part(context.store->masters(group)),
                          .m = m.rows(piece.state_offset, piece.count),
                          .v = v.rows(piece.state_offset, piece.count),
                          .m_bf16 = {},
                          .v_bf16 = {}};
  if (!context.store->grad_sums(group).empty()) tensors.grad_sum = part(context.store->grad_sums(group));
  context.optim_kernels->adamw(*context.queue, step, tensors);
}

template <class T>
void adamw_precondition(const AdamWConfig& config, int64_t updates, View<const device::wide_t<T>, 1> v,
                        View<const device::wide_t<T>, 1> grad, View<device::wide_t<T>, 1> out) {
  using W = device::wide_t<T>;
  const double correction = 1 - std::pow(config.beta2, double(updates));
  for (int64_t i = 0; i < grad.size(); ++i) {
    out[i] =
        updates == 0 ? grad[i] : W(double(grad[i]) / (std::sqrt(double(v[i]) / correction) + config.eps));
  }
}

template <class T>
std::unique_ptr<Optimizer<device::wide_t<T>>> make_adamw(base::Section section, OptimizerContext<T> context) {
  const AdamWConfig config = read_adamw(section);
  section.finish();
  return std::make_unique<AdamW<T>>(config, std::move(context));
}

#define CADRE_INSTANTIATE(T)                                                                           \
  template void adamw_piece(const OptimizerContext<T>&, const AdamWConfig&, Group, const comm::Piece&, \
                            double, double, int64_t, View<device::wide_t<T>, 1>,                       \
                            View<device::wide_t<T>, 1>);                                               \
  template void adamw_precondition<T>(const AdamWConfig&, int64_t, View<const device::wide_t<T>, 1>,   \
                                      View<const device::wide_t<T>, 1>, View<device::wide_t<T>, 1>);   \
  template std::unique_ptr<Optimizer<device::wide_t<T>>> make_adamw(base::Section, OptimizerContext<T>);
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::optim
