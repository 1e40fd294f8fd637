#include "moe/routers/scored_router.h"

#include <algorithm>

#include "parallel/base/batch.h"
#include "parallel/base/errors.h"
#include "parallel/device/transfer.h"

namespace cadre::moe {

template <class T>
void ScoredRouter<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t tokens = shape_.max_tokens, experts = shape_.num_experts;
  worst_.logits = saved.take<W, 2>({tokens, experts});
  worst_.probs = saved.take<W, 2>({tokens, experts});
  worst_.scores = rule_.kind == ScoreRule::kSoftmax ? worst_.probs : saved.take<W, 2>({tokens, experts});
  worst_.gates = saved.take<W, 2>({tokens, experts});
  worst_.lse = saved.take<W, 1>({tokens});
  choice_ = saved.take<int32_t, 2>({tokens, shape_.top_k});
  dlogits_ = scratch.take<W, 2>({tokens, experts});
  routing_.expert_offsets = saved.take<int64_t, 1>({experts + 1});
  routing_.tally = saved.take<int64_t, 1>({experts + 1});
  routing_.slot_token = saved.take<int32_t, 1>({this->max_slots()});
  routing_.slot_gate = saved.take<W, 1>({this->max_slots()});
  if (kernels().top_k_slots_by_row == nullptr) return;
  const int64_t few = std::min(tokens, MoeKernels<T>::kFewTokens);
  row_offsets_ = saved.take<int32_t, 1>({few + 1});
  row_slots_ = saved.take<int32_t, 1>({few * shape_.top_k});
}

template <class T>
Routing<T>& ScoredRouter<T>::forward(device::Queue& queue, device::View<const T, 2> x,
                                     device::View<const int32_t, 1> segment, int64_t num_real, bool) {
  const int64_t tokens = x.dim(0);
  require(tokens <= shape_.max_tokens, ExitCode::kUsage,
          "a micro-batch of {} tokens came to a router sized for {}", tokens, shape_.max_tokens);
  auto cut = [&](const device::View<W, 2>& view) { return view.rows(0, tokens); };
  views_ = {cut(worst_.logits), cut(worst_.scores), cut(worst_.probs), cut(worst_.gates),
            worst_.lse.rows(0, tokens)};
  routing_.num_tokens = tokens;
  routing_.num_real = num_real;
  routing_.num_experts = shape_.num_experts;
  routing_.probs = views_.probs;
  routing_.row_offsets = routing_.row_slots = {};
  write_logits(queue, x, segment, views_.logits);
  choose(queue, segment, views_, routing_);
  return routing_;
}

template <class T>
void ScoredRouter<T>::choose(device::Queue& queue, device::View<const int32_t, 1> segment,
                             const ScoreViews<T>& views, Routing<T>& routing) {
  choose_top_k(queue, segment, views, {}, {}, routing);
}

template <class T>
void ScoredRouter<T>::choose_top_k(device::Queue& queue, device::View<const int32_t, 1> segment,
                                   const ScoreViews<T>& views, device::View<const W, 1> bias,
                                   GroupLimit limit, Routing<T>& routing) {
  routing.choice = choice_.rows(0, routing.num_tokens);
  routing.num_slots = routing.num_real * shape_.top_k;
  const auto route = kernels().route_top_k;
  const bool chosen = replay_.empty();
  if (route == nullptr || !chosen || !route(queue, rule_, bias, limit, segment, views, routing.choice)) {
    kernels().score(queue, rule_, segment, views);
    if (chosen) {
      kernels().choose_top_k(queue, views.scores, bias, limit, segment, routing.choice);
    } else {
      upload_replay(queue, routing.choice);
    }
    kernels().top_k_gates(queue, rule_, routing.choice, views);
  }
  if (chosen && lists_by_row(queue, views, routing)) return;
  kernels().top_k_slots(queue, routing.choice, views.gates, routing);
}

template <class T>
bool ScoredRouter<T>::lists_by_row(device::Queue& queue, const ScoreViews<T>& views, Routing<T>& routing) {
  const auto list = kernels().top_k_slots_by_row;
  if (list == nullptr || routing.num_tokens > MoeKernels<T>::kFewTokens) return false;
  routing.row_offsets = row_offsets_.rows(0, routing.num_tokens + 1);
  routing.row_slots = row_slots_.rows(0, routing.num_slots);
  if (list(queue, routing.choice, views.gates, routing)) return true;
  routing.row_offsets = routing.row_slots = {};
  return false;
}

template <class T>
void ScoredRouter<T>::upload_replay(device::Queue& queue, device::View<int32_t, 2> choice) {
  require(int64_t(replay_.size()) == choice.size(), ExitCode::kData,
          "a routing of {} choices came with a micro-batch that needs {}", replay_.size(), choice.size());
  std::vector<int32_t> experts;
  for (const uint8_t e : replay_) {
    require(e == kNoExpert || e < shape_.num_experts, ExitCode::kData,
            "the routing names expert {}, there are {}", e, shape_.num_experts);
    experts.push_back(e == kNoExpert ? -1 : e);
  }
  device::upload(queue, experts, choice.template reshape<1>({choice.size()}));
  replay_.clear();
}

template <class T>
void ScoredRouter<T>::backward(device::Queue& queue, device::View<const T, 2> x, const RoutingGrad<T>& grad,
                               device::View<T, 2> dx, device::Tap<T>* tap) {
  const auto dlogits = dlogits_.rows(0, x.dim(0));
  RoutingGrad<T> used = grad;
  if (!has_z_loss()) used.z_scale = 0;
  kernels().score_backward(queue, rule_, routing_, views_, used, dlogits);
  logits_backward(queue, x, dlogits, grad, dx, tap);
}

template <class T>
void LinearRouter<T>::declare(device::ParamTable& table, const std::string& prefix, int bucket) {
  row_ = table.add({.name = prefix + ".router.weight",
                    .shape = {this->shape_.num_experts, this->shape_.dim},
                    .group = device::Group::kDense,
                    .init = {device::Init::kNormal, kRouterInitStd},
                    .decay = true,
                    .update = device::Update::kElement,
                    .bucket = bucket});
}

template <class T>
void LinearRouter<T>::bind(device::ParamStore<T>& store) {
  weight_ = store.template value<2>(row_);
  if (store.grads(device::Group::kDense).data() != nullptr) dweight_ = store.template grad<2>(row_);
}

template <class T>
void LinearRouter<T>::write_logits(device::Queue& queue, device::View<const T, 2> x,
                                   device::View<const int32_t, 1>, device::View<W, 2> logits) {
  this->kernels().router_linear(queue, x, weight_, logits);
}

template <class T>
void LinearRouter<T>::logits_backward(device::Queue& queue, device::View<const T, 2> x,
                                      device::View<const W, 2> dlogits, const RoutingGrad<T>&,
                                      device::View<T, 2> dx, device::Tap<T>* tap) {
  if constexpr (std::is_same_v<T, W>) {
    if (tap) tap->on_linear(row_, x, dlogits, nullptr, {});
  } else {
    if (tap) tap->on_wide_linear(row_, x, dlogits);
  }
  this->kernels().router_linear_backward(queue, dlogits, x, weight_, dx, dweight_);
}

template class ScoredRouter<float>;
template class ScoredRouter<double>;
template class ScoredRouter<device::bf16>;
template class LinearRouter<float>;
template class LinearRouter<double>;
template class LinearRouter<device::bf16>;

}  // namespace cadre::moe
