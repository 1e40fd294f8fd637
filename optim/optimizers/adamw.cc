#include "optim/optimizers/adamw.h"

#include <algorithm>
#include <cmath>

#include "optim/rounding.h"
#include "parallel/base/rng.h"
#include "parallel/device/transfer.h"

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
    const size_t element = config_.narrow_moments ? sizeof(device::bf16) : sizeof(W);
    for (int g = 0; g < device::kNumGroups; ++g) {
      // What is rounded at random takes the words of its own row, which a joined piece would not know.
      const bool random = config_.narrow_moments || config_.stochastic;
      pieces_[g] = random || context_.store == nullptr
                       ? context_.pieces[g]
                       : joined(context_.pieces[g], context_.store->layout().table(),
                                {.decay = true, .bucket = context_.shared[g]});
      for (auto* memory : {&m_[g], &v_[g]})
        *memory = context_.allocate(size_t(context_.state_size[g]) * element);
    }
  }

  void step(double lr, double grad_scale, const BucketHook& updated) override {
    ++this->updates_;
    const auto update = [&](Group group, const comm::Piece& piece) {
      const Moments<W> moments{state("m", group), state("v", group), narrow_state("m", group),
                               narrow_state("v", group)};
      adamw_piece(context_, config_, group, piece, lr, grad_scale, this->updates_, moments);
    };
    for_each_piece(context_, pieces_, context_.store->layout().table(), update, updated);
  }

  std::vector<std::string> state_names() const override { return {"m", "v"}; }
  View<W, 1> state(const std::string& name, Group group) override {
    return config_.narrow_moments ? View<W, 1>() : view<W>(name, group);
  }
  View<device::bf16, 1> narrow_state(const std::string& name, Group group) override {
    return config_.narrow_moments ? view<device::bf16>(name, group) : View<device::bf16, 1>();
  }
  void restore_values() override {
    if constexpr (std::is_same_v<T, device::bf16>) {
      if (!config_.stochastic || this->updates_ == 0) return;
      for (int g = 0; g < device::kNumGroups; ++g) {
        for (const comm::Piece& piece : context_.pieces[g]) round_masters(Group(g), piece);
      }
    }
  }
  size_t bytes() const override {
    size_t sum = 0;
    for (int g = 0; g < device::kNumGroups; ++g) sum += m_[g].bytes() + v_[g].bytes();
    return sum;
  }
  void precondition(Group group, const comm::Piece& piece, View<const W, 1> grad,
                    View<W, 1> out) const override {
    Moments<W> moments;
    if (config_.narrow_moments) {
      moments.v_bf16 = view<device::bf16>("v", group).rows(piece.state_offset, piece.count);
    } else {
      moments.v = view<W>("v", group).rows(piece.state_offset, piece.count);
    }
    adamw_precondition<T>(context_, config_, this->updates_, moments, grad, out);
  }

 private:
  // The random words of the update that made the masters.
  void round_masters(Group group, const comm::Piece& piece) {
    const device::ParamLayout& layout = context_.store->layout();
    const device::ParamRow& row = layout.table().row(piece.row);
    const base::Philox random(rounding_key(context_.seed, this->updates_, row));
    const int64_t first = layout.at(piece.row).global_begin + piece.row_begin;
    std::vector<W> masters(size_t(piece.count));
    context_.store->get(*context_.queue, group, piece.group_offset, masters);
    std::vector<device::bf16> values;
    for (size_t i = 0; i < masters.size(); ++i)
      values.push_back(round_at_random(float(masters[i]), random.words(uint64_t(first) + i)[0]));
    if constexpr (std::is_same_v<T, device::bf16>)
      device::upload(*context_.queue, values, context_.store->own_values(group, piece.range()));
  }
  template <class U>
  View<U, 1> view(const std::string& name, Group group) const {
    const device::Buffer& memory = name == "m" ? m_[int(group)] : v_[int(group)];
    return View<U, 1>(reinterpret_cast<U*>(memory.data()), {context_.state_size[int(group)]});
  }

  AdamWConfig config_;
  OptimizerContext<T> context_;
  std::vector<comm::Piece> pieces_[device::kNumGroups];
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

uint64_t rounding_key(uint64_t seed, int64_t updates, const device::ParamRow& row) {
  return base::mix(base::mix(seed, uint64_t(updates)), base::hash_name(row.name));
}

template <class T>
void adamw_piece(const OptimizerContext<T>& context, const AdamWConfig& config, Group group,
                 const comm::Piece& piece, double lr, double grad_scale, int64_t updates,
                 const Moments<device::wide_t<T>>& moments) {
  const device::ParamRow& row = context.store->layout().table().row(piece.row);
  const AdamWStep step = {.lr = lr,
                          .beta1 = config.beta1,
                          .beta2 = config.beta2,
                          .eps = config.eps,
                          .weight_decay = row.decay ? config.weight_decay : 0,
                          .grad_scale = grad_scale,
                          .correction1 = 1 - std::pow(config.beta1, double(updates)),
                          .correction2 = 1 - std::pow(config.beta2, double(updates)),
                          .stochastic = config.stochastic,
                          .seed = rounding_key(context.seed, updates, row),
                          .first = context.store->layout().at(piece.row).global_begin + piece.row_begin};
  const auto state = [&](const auto& view) {
    return view.empty() ? view : view.rows(piece.state_offset, piece.count);
  };
  const device::ParamStore<T>& store = *context.store;
  AdamWTensors<T> tensors{.grad = store.own_grads(group, piece.range()),
                          .grad_sum = store.own_grad_sums(group, piece.range()),
                          .value = store.own_values(group, piece.range()),
                          .master = store.own_masters(group, piece.range()),
                          .m = state(moments.m),
                          .v = state(moments.v),
                          .m_bf16 = state(moments.m_bf16),
                          .v_bf16 = state(moments.v_bf16)};
  context.optim_kernels->adamw(*context.queue, step, tensors);
}

template <class T>
void adamw_precondition(const OptimizerContext<T>& context, const AdamWConfig& config, int64_t updates,
                        const Moments<device::wide_t<T>>& moments, View<const device::wide_t<T>, 1> grad,
                        View<device::wide_t<T>, 1> out) {
  using W = device::wide_t<T>;
  const bool first = updates == 0;
  context.optim_kernels->precondition(*context.queue, 1 - std::pow(config.beta2, double(updates)), config.eps,
                                      first ? View<W, 1>() : moments.v,
                                      first ? View<device::bf16, 1>() : moments.v_bf16, grad, out);
}

template <class T>
std::unique_ptr<Optimizer<device::wide_t<T>>> make_adamw(base::Section section, OptimizerContext<T> context) {
  AdamWConfig config = read_adamw(section);
  config.narrow_moments = section.choice("moments", "fp32", {"fp32", "bf16"}) == "bf16";
  config.stochastic = section.choice("rounding", "nearest", {"nearest", "stochastic"}) == "stochastic";
  section.finish();
  return std::make_unique<AdamW<T>>(config, std::move(context));
}

#define CADRE_INSTANTIATE(T)                                                                               \
  template void adamw_piece(const OptimizerContext<T>&, const AdamWConfig&, Group, const comm::Piece&,     \
                            double, double, int64_t, const Moments<device::wide_t<T>>&);                   \
  template void adamw_precondition<T>(const OptimizerContext<T>&, const AdamWConfig&, int64_t,             \
                                      const Moments<device::wide_t<T>>&, View<const device::wide_t<T>, 1>, \
                                      View<device::wide_t<T>, 1>);                                         \
  template std::unique_ptr<Optimizer<device::wide_t<T>>> make_adamw(base::Section, OptimizerContext<T>);
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::optim
