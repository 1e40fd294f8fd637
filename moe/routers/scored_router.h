// What routers share that turn a (T, E) matrix of logits into gates: buffers, the way from logits to slots
// and back. A variant says how logits are made and, when it is not a plain top-k, who chooses.
#pragma once

#include "moe/router.h"

namespace cadre::moe {

template <class T>
class ScoredRouter : public Router<T> {
 public:
  using W = device::wide_t<T>;

  void reserve(device::Arena& saved, device::Arena& scratch) override;
  int64_t max_slots() const override { return shape_.max_tokens * shape_.top_k; }
  Routing<T>& forward(device::Queue& queue, device::View<const T, 2> x,
                      device::View<const int32_t, 1> segment, int64_t num_real, bool training) override;
  void backward(device::Queue& queue, device::View<const T, 2> x, const RoutingGrad<T>& grad,
                device::View<T, 2> dx, device::Tap<T>* tap) override;
  void add_z_loss(device::Queue& queue, double scale, device::View<double, 1> sum) const override {
    if (has_z_loss()) kernels().add_squares(queue, views_.lse, scale, sum);
  }

  void replay(std::span<const uint8_t> choice) override { replay_.assign(choice.begin(), choice.end()); }

 protected:
  ScoredRouter(const RouterShape<T>& shape, ScoreRule rule) : shape_(shape), rule_(rule) {}
  const MoeKernels<T>& kernels() const { return *shape_.kernels; }

  // Overwrites logits (T, E).
  virtual void write_logits(device::Queue& queue, device::View<const T, 2> x,
                            device::View<const int32_t, 1> segment, device::View<W, 2> logits) = 0;
  // dx += gradient, parameter gradients added. dlogits rows of padding are 0.
  virtual void logits_backward(device::Queue& queue, device::View<const T, 2> x,
                               device::View<const W, 2> dlogits, const RoutingGrad<T>& grad,
                               device::View<T, 2> dx, device::Tap<T>* tap) = 0;
  // Fills the views but their logits, and the slots; routing.num_real and num_tokens are set. Here: top-k of scores + bias.
  virtual void choose(device::Queue& queue, device::View<const int32_t, 1> segment,
                      const ScoreViews<T>& views, Routing<T>& routing);
  void choose_top_k(device::Queue& queue, device::View<const int32_t, 1> segment, const ScoreViews<T>& views,
                    device::View<const W, 1> bias, GroupLimit limit, Routing<T>& routing);
  // False where the scores are not logits that a z-loss may pull to zero.
  virtual bool has_z_loss() const { return true; }
  const Routing<T>& routing() const { return routing_; }

  RouterShape<T> shape_;
  ScoreRule rule_;

 private:
  void upload_replay(device::Queue& queue, device::View<int32_t, 2> choice);
  // The slots, also by token, of few tokens; false where that is not done.
  bool lists_by_row(device::Queue& queue, const ScoreViews<T>& views, Routing<T>& routing);
  ScoreViews<T> worst_;  // reserved, max_tokens rows
  ScoreViews<T> views_;  // of this micro-batch
  device::View<int32_t, 2> choice_;
  device::View<W, 2> dlogits_;
  device::View<int32_t, 1> row_offsets_, row_slots_;  // of few tokens
  Routing<T> routing_;
  std::vector<uint8_t> replay_;  // for the next forward; empty: choose
};

// Logits z = W_r x with one parameter, <prefix>.router.weight (E, D).
template <class T>
class LinearRouter : public ScoredRouter<T> {
 public:
  using W = device::wide_t<T>;
  void declare(device::ParamTable& table, const std::string& prefix, int bucket) override;
  void bind(device::ParamStore<T>& store) override;

 protected:
  using ScoredRouter<T>::ScoredRouter;
  void write_logits(device::Queue& queue, device::View<const T, 2> x, device::View<const int32_t, 1> segment,
                    device::View<W, 2> logits) override;
  void logits_backward(device::Queue& queue, device::View<const T, 2> x, device::View<const W, 2> dlogits,
                       const RoutingGrad<T>& grad, device::View<T, 2> dx, device::Tap<T>* tap) override;

 private:
  int row_ = -1;
  device::View<T, 2> weight_, dweight_;  // (E, D)
};

// Router matrices start small and alike in every variant, so that all experts are nearly equally likely at
// first.
inline constexpr double kRouterInitStd = 0.02;

extern template class ScoredRouter<float>;
extern template class ScoredRouter<double>;
extern template class ScoredRouter<device::bf16>;
extern template class LinearRouter<float>;
extern template class LinearRouter<double>;
extern template class LinearRouter<device::bf16>;

}  // namespace cadre::moe
