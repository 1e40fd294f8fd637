// A mixture-of-experts feed-forward layer: route, dispatch to the ranks that hold the chosen experts, SwiGLU
// experts, combine. A token travels once to each rank that holds any of its experts, and the outputs of those
// experts are summed there, so one row comes back. Shared experts, when configured, add a dense SwiGLU for
// every token.
#pragma once

#include <absl/functional/function_ref.h>

#include <memory>
#include <span>

#include "moe/balance_loss.h"
#include "moe/config.h"
#include "moe/router.h"
#include "parallel/base/batch.h"
#include "parallel/comm/mesh.h"

namespace cadre::moe {

// What the layers of a model share. Everything is borrowed and outlives the layer.
template <class T>
struct MoeContext {
  device::Queue* queue = nullptr;
  const device::DeviceKernels<T>* kernels = nullptr;
  comm::Mesh* mesh = nullptr;
  int64_t dim = 0;
  int64_t max_tokens = 0;  // of one micro-batch on one rank
  int64_t seq_len = 0;
  double init_std = 0.02, out_init_std = 0.02;  // of w_gate/w_up and of w_down
};

// Sums over one step on this rank, added in backward; the trainer reduces them.
struct MoeStats {
  std::vector<double> expert_tokens;  // (E) slots by expert, before capacity
  double dropped = 0;
  double aux_loss = 0,
         z_loss = 0;  // already divided by global counts: summing over ranks and micro-batches is right
};

template <class T>
class MoeLayer {
 public:
  MoeLayer(const MoeConfig& config, const MoeContext<T>& context);
  ~MoeLayer();

  void declare(device::ParamTable& table, const std::string& prefix, int bucket);
  void bind(device::ParamStore<T>& store);
  // saved lives from forward to backward; scratch is used within one call, so that layers may share it. So may `hidden`,
  // if remake is called before each backward: the experts' hidden activations. Routing and what other ranks sent are
  // in saved.
  void reserve(device::Arena& saved, device::Arena& scratch, device::Arena& hidden);
  void reserve(device::Arena& saved, device::Arena& scratch) { reserve(saved, scratch, saved); }

  void begin_step();
  // num_real tokens are not padding. y (T, D) is overwritten. x must stay unchanged until backward. Collective over the expert group (a rank
  // without tokens takes part), and in training over the data group when the balance loss needs it. Sequences
  // are runs of seq_len tokens, 0 for the context's; only the sequence balance loss looks at them. plus (T, D) is added to the
  // rounded y, unless it is empty.
  void forward(device::View<const T, 2> x, device::View<const int32_t, 1> segment, int64_t num_real,
               device::View<T, 2> y, bool training, int64_t seq_len = 0, device::View<const T, 2> plus = {});
  // Between forward and backward, with the forward's x: makes the hidden activations again. Sends nothing.
  void remake(device::View<const T, 2> x);
  // Once after a forward in training, whose saved activations it consumes. dx (T, D) is overwritten. beside() may queue
  // what should run while dy's rows are on their way to the experts; it is called before weights are read.
  void backward(
      device::View<const T, 2> x, device::View<const int32_t, 1> segment, device::View<const T, 2> dy,
      const BatchCounts& counts, device::View<T, 2> dx, device::Tap<T>* tap,
      absl::FunctionRef<void()> beside = [] {});
  MoeStats stats() const;  // since begin_step; waits for the queue
  // The same in two halves, so that many layers cost one wait: sums, (E + 3), are there after the queue's next wait().
  void fetch_sums(std::vector<double>& sums) const;
  MoeStats stats(const std::vector<double>& sums) const;
  void after_step(const std::vector<double>& global_expert_tokens);  // (E), summed over data ranks

  // Experts by token of the last forward, (T, K) on the device, -1 for padding.
  device::View<const int32_t, 2> choice() const;
  // The next forward takes these (T, K) instead of the router's choice; gates are still computed. See kNoExpert.
  void replay(std::span<const uint8_t> choice);
  int top_k() const;

  void save(StateDict& state, const std::string& prefix) const;
  void load(const StateDict& state, const std::string& prefix);
  bool causal() const;
  bool split_dependent() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
extern template class MoeLayer<float>;
extern template class MoeLayer<double>;
extern template class MoeLayer<device::bf16>;

}  // namespace cadre::moe
