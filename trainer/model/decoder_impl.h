// What a Decoder is made of; shared by the files that implement it.
#pragma once

#include <absl/functional/function_ref.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "trainer/model/block.h"
#include "trainer/model/decoder.h"
#include "trainer/model/head.h"
#include "trainer/model/head_exchange.h"
#include "trainer/model/recorded_training.h"
#include "trainer/model/rope_table.h"

namespace cadre::trainer {

template <class T>
struct Decoder<T>::Impl {
  Impl(const ModelConfig& model, const std::optional<moe::MoeConfig>& experts, const ModelContext<T>& shared)
      : config(model),
        moe(experts),
        context(shared),
        head(config, context),
        rope(config.rope, config.head_size()) {
    if (context.context_ranks() > 1) exchange.emplace(config, context);
    for (int i = 0; i < config.layers; ++i) {
      const bool has_experts = moe && config.is_moe(i);
      blocks.push_back(std::make_unique<Block<T>>(config, context, has_experts ? &*moe : nullptr));
    }
  }
  void declare(device::ParamTable& param_table);
  // The first bucket of a layer, or for one past the last that of the head.
  static int bucket_of(int layer) { return 1 + Block<T>::kBuckets * layer; }
  void reserve_blocks(device::Arena& saved, device::Arena& scratch);
  void check(const Batch& batch) const;
  void take_in(std::span<const int32_t> token, std::span<const int32_t> segment,
               std::span<const int32_t> position, std::span<const int32_t> row_segment = {});
  void replay(const Batch& batch);
  device::View<T, 2> embed();
  // Of the micro-batch in work; one past the last layer's is the final norm's.
  device::View<T, 2> input_of(size_t layer) const;
  // Queue the work between the inputs and the head, and back. before and done: of each bucket, as in Network.
  void layers_forward(bool training, absl::FunctionRef<void(int)> before);
  void layers_backward(const BatchCounts& counts, device::Tap<T>* tap, absl::FunctionRef<void(int)> before,
                       absl::FunctionRef<void(int)> done);
  // Of one of the two for the micro-batch in work; null where it is to be queued as it is.
  device::Recording* recording(bool backward);
  // Queues one pass of generation in pages; its inputs are on the device.
  void pass(PagedCache<T>& cache, const device::SampleShape& shape);
  void fetch_stats(std::vector<std::vector<double>>& sums) const;  // queued; by layer

  const ModelConfig config;
  const std::optional<moe::MoeConfig> moe;
  const ModelContext<T> context;
  const device::ParamTable* table = nullptr;

  int embed_row = -1;
  device::View<T, 2> embed_weight, embed_grad;
  std::vector<std::unique_ptr<Block<T>>> blocks;
  RmsNorm<T> final_norm;
  Head<T> head;
  RopeTable<W> rope;

  std::optional<HeadExchange<T>> exchange;            // where ranks share sequences
  device::View<int32_t, 1> token, segment, position;  // (T) saved
  device::View<int32_t, 1> row_segment;               // of whole sequences, where ranks share them; saved
  device::View<T, 2> embedded, normed;     // (T, D) saved: input of the first block, input of the head
  device::View<T, 2> dx, dh;               // (T, D) scratch
  device::ParamStore<T>* store = nullptr;  // bound
  LogProbs<W> logp;                        // of the last forward()
  std::vector<std::vector<double>> stats;  // of the MoE layers, on their way since fetch_stats()
  // Of the last forward:
  MicroBatch<T> micro;
  int64_t rows_taken_in = 0;  // that the caller gave; decode() may have added padding
  bool trained = false;
  RecordedTraining recorded;
  // Changes with what routers keep on the host and send to the device when they next run.
  int64_t router_version = 0;
};

}  // namespace cadre::trainer
