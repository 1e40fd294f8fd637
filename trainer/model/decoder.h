// The decoder-only transformer: embedding, L blocks of (RMSNorm, grouped-query attention with rotary
// positions, RMSNorm, SwiGLU or experts), final RMSNorm, head. Forward and backward are written out per
// module; saved activations live in arenas that are sized once. Parameter names are those of docs/formats.md.
#pragma once

#include <absl/functional/function_ref.h>

#include <memory>
#include <optional>
#include <vector>

#include "moe/moe_layer.h"
#include "parallel/base/batch.h"
#include "parallel/comm/mesh.h"
#include "parallel/device/bf16.h"
#include "parallel/device/kernels.h"
#include "parallel/device/param_table.h"
#include "parallel/device/tap.h"
#include "trainer/model/config.h"
#include "trainer/model/context.h"
#include "trainer/model/log_probs.h"

namespace cadre::trainer {

// Keys and values of one sequence being generated.
template <class T>
struct KvCache;

template <class T>
class Decoder {
 public:
  using W = device::wide_t<T>;
  // moe is empty for a dense model. Declares its rows in `table`.
  Decoder(const ModelConfig& config, const std::optional<moe::MoeConfig>& moe, const ModelContext<T>& context,
          device::ParamTable& table);
  ~Decoder();

  void bind(device::ParamStore<T>& store);
  // Views for saved activations and scratch; see Arena for the two passes.
  void reserve(device::Arena& saved, device::Arena& scratch);

  void begin_step();
  // Log-probability of each target, (N) in host memory, valid until the next forward; 0 where loss_mask is 0.
  // batch.seq_len may be below the context's, batch.num_tokens() at most max_sequences * seq_len. Collective
  // over the expert group.
  device::View<const W, 1> forward(const Batch& batch, bool training);
  // The same without waiting for the device: logp can be finished after the queue's next wait(), and must live
  // until then.
  void start_forward(const Batch& batch, bool training, LogProbs<W>& logp);
  // Adds gradients. counts scale the balance losses. on_bucket_done(bucket) is called when a bucket's
  // gradients from this micro-batch are complete, from the last bucket to the first. Belongs to the last
  // forward, which had training = true.
  void backward(device::View<const W, 1> dlogp, const BatchCounts& counts,
                absl::FunctionRef<void(int)> on_bucket_done, device::Tap<T>* tap = nullptr);
  // MoE statistics of the step, one entry a MoE layer in rising order (dense layers have none); waits for the
  // queue. after_step takes the expert_tokens of the same layers, summed over data ranks.
  std::vector<moe::MoeStats> moe_stats() const;
  void after_step(const std::vector<std::vector<double>>& global_expert_tokens);

  // Generation, one sequence: feeds tokens at the cache's end and returns the logits (V) of the last one,
  // valid until the next call. Throws Error(kUsage) for a model that is not causal (expert choice) or when
  // the cache is full.
  std::unique_ptr<KvCache<T>, void (*)(KvCache<T>*)> make_cache(int64_t max_tokens);
  device::View<const W, 1> extend(KvCache<T>& cache, const std::vector<int32_t>& tokens);

  moe::StateDict save_state() const;
  void load_state(const moe::StateDict& state);
  bool causal() const;
  bool split_dependent() const;
  const ModelConfig& config() const;
  // Multiply-add counted as 2, forward and backward: 6 x active matmul parameters (input embedding left out)
  // + 6 L S H h for causal attention, S the mean length that a token's document piece has (sum len^2 / sum
  // len).
  double flops_per_token(double mean_length) const;
  int64_t active_params() const;  // matmul parameters a token uses, head included, input embedding left out

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
extern template class Decoder<float>;
extern template class Decoder<double>;
extern template class Decoder<device::bf16>;

}  // namespace cadre::trainer
