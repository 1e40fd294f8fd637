#include "moe/moe_layer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "moe/dispatch.h"
#include "moe/expert_ffn.h"
#include "parallel/base/errors.h"
#include "parallel/base/trial.h"
#include "parallel/device/transfer.h"

namespace cadre::moe {
namespace {

// C = ceil(K T / E * factor). The product may be a whole number in exact arithmetic and a little more in
// doubles.
int64_t expert_capacity(const MoeConfig& config, int64_t real_tokens) {
  const double exact =
      double(config.top_k) * double(real_tokens) * config.capacity_factor / config.num_experts;
  return int64_t(std::ceil(exact * (1 - 1e-12)));
}

template <class T>
void check(const MoeConfig& config, const MoeContext<T>& context, bool widths) {
  const int ep = context.mesh->expert().size();
  if (widths) {
    require(config.width % ep == 0, ExitCode::kUsage,
            "moe.width = {} does not divide by mesh.ep = {}, which moe.shares: width asks for", config.width,
            ep);
    return;
  }
  require(config.num_experts % ep == 0, ExitCode::kUsage,
          "moe.num_experts = {} does not divide by mesh.ep = {}; change one so that every rank holds as many "
          "experts",
          config.num_experts, ep);
}

}  // namespace

template <class T>
struct MoeLayer<T>::Impl {
  using W = device::wide_t<T>;
  Impl(const MoeConfig& config, const MoeContext<T>& context);
  void reserve(device::Arena& saved, device::Arena& scratch, device::Arena& hidden);
  void forward(device::View<const T, 2> x, device::View<const int32_t, 1> segment, int64_t num_real,
               device::View<T, 2> y, bool training, int64_t seq_len, device::View<const T, 2> plus);
  void backward(device::View<const T, 2> x, device::View<const int32_t, 1> segment,
                device::View<const T, 2> dy, const BatchCounts& counts, device::View<T, 2> dx,
                device::Tap<T>* tap, absl::FunctionRef<void()> beside);
  RoutingGrad<T> routing_grad(device::View<const int32_t, 1> segment, const BatchCounts& counts,
                              const SlotGrads<T>& slots);

  MoeConfig config;
  MoeContext<T> context;
  const MoeKernels<T>& kernels;
  std::unique_ptr<Router<T>> router;
  std::unique_ptr<BalanceLoss<T>> balance;
  std::unique_ptr<Dispatcher<T>> dispatcher;
  std::optional<ExpertFfn<T>> experts;
  std::optional<SharedFfn<T>> shared;
  Routing<T>* routing = nullptr;  // the router's, of the last forward
  int64_t seq_len = 0;
  // (E + 3) sums of the step: slots by expert, dropped, balance loss, z-loss.
  device::View<double, 1> sums;
  device::View<int32_t, 1> drop_order;  // scratch
  device::View<W, 2> dprobs;            // scratch
};

template <class T>
MoeLayer<T>::Impl::Impl(const MoeConfig& config_in, const MoeContext<T>& context_in)
    : config(config_in), context(context_in), kernels(moe_kernels<T>(context.queue->kind())) {
  const int ranks = context.mesh->expert().size();
  const bool widths = share_widths(config, ranks, context.queue->kind() != device::DeviceKind::kCpu);
  check(config, context, widths);
  if (base::on_trial() && kernels.let_others_run != nullptr && context.mesh->data_tensors().size() > 1)
    kernels.let_others_run(*context.queue);
  const int64_t tokens = context.max_tokens;
  router = make_router<T>(config, {.dim = context.dim,
                                   .max_tokens = tokens,
                                   .num_experts = config.num_experts,
                                   .top_k = config.top_k,
                                   .kernels = &kernels,
                                   .dense = context.kernels});
  balance = make_balance_loss<T>(config, {.num_experts = config.num_experts,
                                          .top_k = config.top_k,
                                          .max_tokens = tokens,
                                          .queue = context.queue,
                                          .kernels = &kernels});
  require(context.mesh->context().size() == 1 || !balance->needs_whole_sequences(), ExitCode::kUsage,
          "mesh.cp is {}: this moe.balance looks at whole sequences, of which a rank then has parts; choose "
          "another, or set mesh.cp: 1",
          context.mesh->context().size());
  dispatcher = make_dispatcher<T>(*context.queue, kernels,
                                  {context.mesh->expert_tensors(), context.mesh->expert_peers()},
                                  {.dim = context.dim,
                                   .max_tokens = tokens,
                                   .max_slots = router->max_slots(),
                                   .num_experts = config.num_experts,
                                   .hint_width = router->hint_width(),
                                   .widths = widths},
                                  config.dispatch);
  ExpertShape shape{.dim = context.dim,
                    .width = config.width,
                    .num_experts = config.num_experts,
                    .hint_width = router->hint_width(),
                    .max_slots = dispatcher->max_slots(),
                    .width_parts = widths ? ranks : 1,
                    .init_std = context.init_std,
                    .out_init_std = context.out_init_std};
  experts.emplace(*context.queue, *context.kernels, kernels, shape);
  shape.width = int64_t(config.width) * config.num_shared;
  shape.width_parts = 1;
  if (config.num_shared > 0) shared.emplace(*context.queue, *context.kernels, shape, tokens);
}

template <class T>
void MoeLayer<T>::Impl::reserve(device::Arena& saved, device::Arena& scratch, device::Arena& hidden) {
  sums = saved.take<double, 1>({config.num_experts + 3});
  dispatcher->reserve(saved, scratch);
  dprobs = scratch.take<W, 2>({context.max_tokens, config.num_experts});
  // These are done with their scratch before the experts start, or start after them.
  const size_t mark = scratch.mark();
  router->reserve(saved, scratch);
  drop_order = scratch.take<int32_t, 1>({router->max_slots()});
  scratch.release(mark);
  balance->reserve(saved, scratch);
  scratch.release(mark);
  if (shared) shared->reserve(hidden, scratch);
  scratch.release(mark);
  experts->reserve(hidden, scratch);
}

template <class T>
void MoeLayer<T>::Impl::forward(device::View<const T, 2> x, device::View<const int32_t, 1> segment,
                                int64_t num_real, device::View<T, 2> y, bool training, int64_t seq_len_in,
                                device::View<const T, 2> plus) {
  seq_len = seq_len_in > 0 ? seq_len_in : context.seq_len;
  dispatcher->start_tokens(x);
  if (!training) experts->expect(num_real * config.top_k);
  routing = &router->forward(*context.queue, x, segment, num_real, training);
  if (config.capacity_factor > 0) {
    kernels.limit_capacity(*context.queue, expert_capacity(config, num_real), config.drop, drop_order,
                           *routing);
    routing->row_offsets = routing->row_slots = {};  // they had those that are dropped
  }
  if (training && balance->active())
    balance->observe(*routing, segment, seq_len, context.mesh->data_tensors());
  dispatcher->send_tokens(x, *routing);
  if (shared) shared->forward(x, y);
  const auto& slots = dispatcher->receive_tokens();
  const auto out = experts->forward(slots, [&](device::View<const T, 2> y) { dispatcher->send_outputs(y); });
  if (!plus.empty() && dispatcher->combine_onto(out, shared.has_value(), plus, y)) return;
  dispatcher->combine(out, shared.has_value(), y);
  if (!plus.empty())
    context.kernels->add(*context.queue, plus.template reshape<1>({plus.size()}),
                         y.template reshape<1>({y.size()}));
}

template <class T>
RoutingGrad<T> MoeLayer<T>::Impl::routing_grad(device::View<const int32_t, 1> segment,
                                               const BatchCounts& counts, const SlotGrads<T>& slots) {
  RoutingGrad<T> grad{.slot_gate = slots.gate, .probs = {}, .slot_hint = slots.hint};
  if (balance->active()) {
    const auto to = dprobs.rows(0, routing->num_tokens);
    balance->loss_and_grad(*routing, segment, seq_len, counts, to, sums.rows(config.num_experts + 1, 1));
    grad.probs = to;
  }
  if (config.z_loss > 0 && counts.real_tokens > 0) {
    grad.z_scale = config.z_loss / double(counts.real_tokens);
    router->add_z_loss(*context.queue, grad.z_scale, sums.rows(config.num_experts + 2, 1));
  }
  return grad;
}

template <class T>
void MoeLayer<T>::Impl::backward(device::View<const T, 2> x, device::View<const int32_t, 1> segment,
                                 device::View<const T, 2> dy, const BatchCounts& counts,
                                 device::View<T, 2> dx, device::Tap<T>* tap,
                                 absl::FunctionRef<void()> beside) {
  kernels.add_counts(*context.queue, routing->tally, sums.rows(0, config.num_experts + 1));
  dispatcher->send_grad(dy);
  beside();
  if (shared) shared->backward(x, dy, dx, tap);
  const auto drows = dispatcher->receive_grad();
  // The slots of the forward pass: the dispatcher keeps them.
  const auto grads = experts->backward(dispatcher->slots(), drows);
  dispatcher->send_home(grads.dx, grads.slots, shared.has_value(), dx);
  // A third of the experts' backward pass, which nobody waits for: it hides the way home, and the fuller rank's delay.
  experts->backward_weights(dispatcher->slots(), tap);
  const auto slots = dispatcher->receive_home();
  router->backward(*context.queue, x, routing_grad(segment, counts, slots), dx, tap);
}

template <class T>
MoeLayer<T>::MoeLayer(const MoeConfig& config, const MoeContext<T>& context)
    : impl_(std::make_unique<Impl>(config, context)) {}
template <class T>
MoeLayer<T>::~MoeLayer() = default;

template <class T>
void MoeLayer<T>::declare(device::ParamTable& table, const std::string& prefix, int bucket) {
  impl_->router->declare(table, prefix, bucket);
  impl_->experts->declare(table, prefix, bucket);
  if (impl_->shared) impl_->shared->declare(table, prefix, bucket);
}

template <class T>
void MoeLayer<T>::bind(device::ParamStore<T>& store) {
  impl_->router->bind(store);
  impl_->experts->bind(store);
  if (impl_->shared) impl_->shared->bind(store);
}

template <class T>
void MoeLayer<T>::reserve(device::Arena& saved, device::Arena& scratch, device::Arena& hidden) {
  impl_->reserve(saved, scratch, hidden);
}

template <class T>
void MoeLayer<T>::remake(device::View<const T, 2> x) {
  if (impl_->shared) impl_->shared->remake(x);
  impl_->experts->remake(impl_->dispatcher->slots());
}

template <class T>
void MoeLayer<T>::begin_step() {
  device::zero(*impl_->context.queue, impl_->sums);
  impl_->balance->begin_step();
}

template <class T>
void MoeLayer<T>::forward(device::View<const T, 2> x, device::View<const int32_t, 1> segment,
                          int64_t num_real, device::View<T, 2> y, bool training, int64_t seq_len,
                          device::View<const T, 2> plus) {
  impl_->forward(x, segment, num_real, y, training, seq_len, plus);
}

template <class T>
void MoeLayer<T>::backward(device::View<const T, 2> x, device::View<const int32_t, 1> segment,
                           device::View<const T, 2> dy, const BatchCounts& counts, device::View<T, 2> dx,
                           device::Tap<T>* tap, absl::FunctionRef<void()> beside) {
  impl_->backward(x, segment, dy, counts, dx, tap, beside);
}

template <class T>
void MoeLayer<T>::fetch_sums(std::vector<double>& sums) const {
  sums.resize(size_t(impl_->sums.size()));
  device::download<double>(*impl_->context.queue, impl_->sums, sums);
}

template <class T>
MoeStats MoeLayer<T>::stats(const std::vector<double>& sums) const {
  const auto experts = sums.begin() + impl_->config.num_experts;
  return {.expert_tokens = {sums.begin(), experts},
          .dropped = experts[0],
          .aux_loss = experts[1],
          .z_loss = experts[2]};
}

template <class T>
MoeStats MoeLayer<T>::stats() const {
  std::vector<double> sums;
  fetch_sums(sums);
  impl_->context.queue->wait();
  return stats(sums);
}

template <class T>
void MoeLayer<T>::after_step(const std::vector<double>& global_expert_tokens) {
  assert(int(global_expert_tokens.size()) == impl_->config.num_experts);
  impl_->router->after_step(global_expert_tokens);
  impl_->balance->after_step(global_expert_tokens);
}

template <class T>
device::View<const int32_t, 2> MoeLayer<T>::choice() const {
  return impl_->routing->choice;
}

template <class T>
void MoeLayer<T>::replay(std::span<const uint8_t> choice) {
  require(impl_->config.num_experts <= kNoExpert, ExitCode::kUsage,
          "routing is recorded in 8 bits: moe.num_experts is {}, at most {} can be replayed",
          impl_->config.num_experts, kNoExpert);
  impl_->router->replay(choice);
}

template <class T>
int MoeLayer<T>::top_k() const {
  return impl_->config.top_k;
}

template <class T>
void MoeLayer<T>::save(StateDict& state, const std::string& prefix) const {
  impl_->router->save(state, prefix);
  impl_->balance->save(state, prefix);
}

template <class T>
void MoeLayer<T>::load(const StateDict& state, const std::string& prefix) {
  impl_->router->load(state, prefix);
  impl_->balance->load(state, prefix);
}

template <class T>
bool MoeLayer<T>::causal() const {
  return impl_->router->causal();
}

template <class T>
bool MoeLayer<T>::split_dependent() const {
  const MoeConfig& config = impl_->config;
  return impl_->router->split_dependent() || impl_->balance->split_dependent() || config.capacity_factor > 0;
}

template class MoeLayer<float>;
template class MoeLayer<double>;
template class MoeLayer<device::bf16>;

}  // namespace cadre::moe
