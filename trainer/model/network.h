// A model as the training step, evaluation and generation see it, whatever type its device stores: what goes in and
// out is in W, wide_t of that type. Decoder implements it.
#pragma once

#include <absl/functional/function_ref.h>

#include <functional>
#include <memory>
#include <vector>

#include "moe/moe_layer.h"
#include "parallel/base/batch.h"
#include "parallel/device/kernels.h"
#include "parallel/device/tap.h"
#include "parallel/device/view.h"
#include "trainer/model/config.h"
#include "trainer/model/decode_batch.h"
#include "trainer/model/log_probs.h"

namespace cadre::trainer {

// Keys and values of one sequence being generated, or of many in pages.
class Cache {
 public:
  virtual ~Cache() = default;
};

template <class W>
class Network {
 public:
  virtual ~Network() = default;
  // Views for saved activations and scratch; see Arena for the two passes.
  virtual void reserve(device::Arena& saved, device::Arena& scratch) = 0;

  virtual void begin_step() = 0;
  // Log-probability of each target, (N) in host memory, valid until the next forward; 0 where loss_mask is 0.
  // batch.seq_len may be below the context's, batch.num_tokens() at most max_sequences * seq_len. Collective
  // over the expert group.
  virtual device::View<const W, 1> forward(const Batch& batch, bool training) = 0;
  // The same without waiting for the device: logp can be finished after the queue's next wait(), and must live
  // until then. dlogp may be given here when it is known already; backward then takes the same numbers.
  virtual void start_forward(const Batch& batch, bool training, LogProbs<W>& logp,
                             device::View<const W, 1> dlogp = {}) = 0;
  // Adds gradients. counts scale the balance losses. on_bucket_done(bucket) is called when a bucket's
  // gradients from this micro-batch are complete, from the last bucket to the first. Belongs to the last
  // forward, which had training = true. A tap needs the model's storage type.
  virtual void backward(device::View<const W, 1> dlogp, const BatchCounts& counts,
                        absl::FunctionRef<void(int)> on_bucket_done, device::AnyTap* tap = nullptr) = 0;
  // Queues what moe_stats() needs, so that the caller may wait for it together with other things.
  virtual void fetch_stats() = 0;
  // MoE statistics of the step, one entry a MoE layer in rising order (dense layers have none). Waits for the
  // queue, unless it was waited for since fetch_stats(). after_step takes the expert_tokens of the same layers, summed over data ranks.
  virtual std::vector<moe::MoeStats> moe_stats() const = 0;
  virtual void after_step(const std::vector<std::vector<double>>& global_expert_tokens) = 0;

  // Generation, one sequence: feeds tokens at the cache's end and returns the logits (V) of the last one,
  // valid until the next call. Throws Error(kUsage) for a model that is not causal (expert choice) or when
  // the cache is full.
  virtual std::unique_ptr<Cache> make_cache(int64_t max_tokens) = 0;
  virtual device::View<const W, 1> extend(Cache& cache, const std::vector<int32_t>& tokens) = 0;

  // Generation, many sequences at once (trainer/rollout). Which pages belong to whom is the caller's business. Throws
  // Error(kUsage) for a model that is not causal and for devices without the kernels.
  virtual std::unique_ptr<Cache> make_pages(const PageShape& shape) = 0;
  virtual void copy_page(Cache& pages, int32_t from, int32_t to) = 0;
  // Feeds the rows and draws tokens after some of them. Collective over the expert group; a rank without work passes one
  // padding row.
  virtual void start_decode(Cache& pages, const DecodeBatch& batch, const device::SampleShape& shape) = 0;
  // What the earliest pass drew of those that were started and not finished, of which there may be two.
  virtual Decoded<W> finish_decode(Cache& pages) = 0;
  // Whether the host has time for other things between the two.
  virtual bool works_alone() const = 0;
  // Experts of the rows of the last forward or decode, (rows, MoE layers, K); see Batch::routing.
  virtual std::vector<uint8_t> last_routing() const = 0;

  virtual moe::StateDict save_state() const = 0;
  virtual void load_state(const moe::StateDict& state) = 0;
  virtual bool causal() const = 0;
  virtual bool split_dependent() const = 0;
  virtual const ModelConfig& config() const = 0;
  // Multiply-add counted as 2, forward and backward: 6 x active matmul parameters (input embedding left out)
  // + 6 L S H h for causal attention, S the mean length that a token's document piece has (sum len^2 / sum
  // len).
  virtual double flops_per_token(double mean_length) const = 0;
  virtual int64_t active_params()
      const = 0;  // matmul parameters a token uses, head included, input embedding not

  // Called before a forward pass reads the values of a bucket, which may still be on their way from other ranks.
  void set_before_bucket(std::function<void(int bucket)> hook) { before_bucket_ = std::move(hook); }
  // Called before a backward pass reads the values of a bucket and writes its gradients; both halves of a layer before
  // the second one's.
  void set_before_backward(std::function<void(int bucket)> hook) { before_backward_ = std::move(hook); }

 protected:
  void before_bucket(int bucket) const {
    if (before_bucket_) before_bucket_(bucket);
  }
  void before_backward(int bucket) const {
    if (before_backward_) before_backward_(bucket);
  }

 private:
  std::function<void(int)> before_bucket_, before_backward_;
};

}  // namespace cadre::trainer
