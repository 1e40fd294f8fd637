// Balance over the global batch (Qiu et al. 2025, arXiv 2501.11873): f from the choices of all data ranks, P
// local. The result is the same however a micro-step is spread over ranks. With gradient accumulation f uses
// what the step has seen so far, so the split into micro-batches matters; previous_batch is the variant
// without that dependence.
#include "moe/balance/load_loss.h"
#include "moe/balance/makers.h"

namespace cadre::moe {
namespace {

template <class T>
class GlobalBatchBalance final : public LoadLoss<T> {
 public:
  using typename BalanceLoss<T>::W;
  GlobalBatchBalance(double coef, const BalanceShape<T>& shape) : LoadLoss<T>(coef, shape) {}

  // load_ holds the choices of the step so far on all ranks.
  void begin_step() override {
    finish();
    device::zero(queue(), this->load_);
  }
  void observe(const Routing<T>& routing, device::View<const int32_t, 1>, int64_t,
               comm::Communicator& data) override {
    if (data.size() == 1) return this->shape_.kernels->add_counts(queue(), routing.chosen(), this->load_);
    finish();
    const int64_t experts = this->shape_.num_experts, ranks = data.size();
    if (int64_t(memory_.bytes()) == 0)
      memory_ = device::Buffer(queue().kind(), size_t(ranks * experts) * sizeof(int64_t));
    all_ = {reinterpret_cast<int64_t*>(memory_.data()), {ranks, experts}};
    std::vector<int64_t> counts(ranks, experts), begins(ranks);
    for (int64_t r = 0; r < ranks; ++r) begins[r] = r * experts;
    request_ = data.all_gather(routing.chosen().data(), experts, all_.data(), counts, begins,
                               comm::Dtype::kInt64, "balance.expert_counts");
    pending_ = true;
  }
  void loss_and_grad(const Routing<T>& routing, device::View<const int32_t, 1> segment, int64_t,
                     const BatchCounts& counts, device::View<W, 2> dprobs,
                     device::View<double, 1> loss) override {
    finish();
    this->shared_load(routing, segment, counts, dprobs, loss);
  }
  bool split_dependent() const override { return true; }  // over micro-batches; not over ranks

 private:
  device::Queue& queue() const { return *this->shape_.queue; }
  void finish() {
    if (!pending_) return;
    request_.then(queue());
    pending_ = false;
    for (int64_t r = 0; r < all_.dim(0); ++r) this->shape_.kernels->add_counts(queue(), all_[r], this->load_);
  }

  // Of several ranks only:
  device::Buffer memory_;
  device::View<int64_t, 2> all_;  // (ranks, E): choices of this micro-batch
  comm::Request request_;         // destroyed before the memory that it writes
  bool pending_ = false;
};

}  // namespace

template <class T>
std::unique_ptr<BalanceLoss<T>> make_global_batch_balance(base::Section section,
                                                          const BalanceShape<T>& shape) {
  const double coef = section.number("coef", 0.01, {.min = 0});
  section.finish();
  return std::make_unique<GlobalBatchBalance<T>>(coef, shape);
}
template std::unique_ptr<BalanceLoss<float>> make_global_batch_balance(base::Section,
                                                                       const BalanceShape<float>&);
template std::unique_ptr<BalanceLoss<double>> make_global_batch_balance(base::Section,
                                                                        const BalanceShape<double>&);
template std::unique_ptr<BalanceLoss<device::bf16>> make_global_batch_balance(
    base::Section, const BalanceShape<device::bf16>&);

}  // namespace cadre::moe
