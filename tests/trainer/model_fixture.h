// A small decoder with everything it needs around it, and batches of packed documents, for tests.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moe/config.h"
#include "parallel/base/rng.h"
#include "trainer/model/decoder.h"

namespace cadre::trainer {

inline ModelConfig small_config() {
  ModelConfig c;
  c.vocab = 23;
  c.dim = 12;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.ffn_width = 10;
  c.init_std = 0.3;  // large enough for every parameter to matter
  c.rope.theta = 100;
  return c;
}

// Sequences of documents of 1 to 9 tokens. The last sequence ends in padding; every seventh target does not
// count.
inline Batch packed_batch(int64_t num_sequences, int64_t seq_len, int64_t vocab, uint64_t seed = 1) {
  const base::Philox rng(base::mix(seed, 5));
  Batch b;
  b.num_sequences = num_sequences;
  b.seq_len = seq_len;
  uint64_t draw = 0;
  for (int64_t s = 0; s < num_sequences; ++s) {
    const int64_t real = s + 1 == num_sequences ? seq_len - seq_len / 5 : seq_len;
    int64_t left = 0;
    int32_t segment = -1, position = 0;
    for (int64_t i = 0; i < seq_len; ++i, --left, ++position) {
      if (i < real && left == 0) {
        left = 1 + int64_t(rng.bits(++draw) % 9);
        ++segment;
        position = 0;
      }
      const bool padding = i >= real;
      if (i == real) position = 0;
      b.tokens.push_back(padding ? 0 : int32_t(rng.bits(++draw) % vocab));
      b.targets.push_back(padding ? 0 : int32_t(rng.bits(++draw) % vocab));
      b.loss_mask.push_back(!padding && (s * seq_len + i) % 7 != 3);
      b.segment.push_back(padding ? -1 : segment);
      b.position.push_back(position);
      b.domain.push_back(0);
      b.document.push_back(padding ? -1 : segment);
    }
  }
  return b;
}

inline BatchCounts counts_of(const Batch& batch) {
  BatchCounts counts;
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    counts.trained_tokens += batch.loss_mask[t] != 0;
    counts.real_tokens += batch.segment[t] >= 0;
  }
  counts.sequences = batch.num_sequences;
  return counts;
}

struct TestOptions {
  int64_t max_sequences = 2, seq_len = 24;
  bool mask_documents = true;
  Recompute recompute = Recompute::kNone;
  int64_t logits_bytes = int64_t(256) << 20;
  int threads = 2;
  uint64_t seed = 1;
};

template <class T>
class TestModel {
 public:
  TestModel(const ModelConfig& config, const std::optional<moe::MoeConfig>& moe, comm::Mesh* mesh = nullptr,
            const TestOptions& options = {})
      : queue(options.threads) {
    const ModelContext<T> context{.queue = &queue,
                                  .kernels = &device::cpu_kernels<T>(),
                                  .mesh = mesh,
                                  .max_sequences = options.max_sequences,
                                  .seq_len = options.seq_len,
                                  .recompute = options.recompute,
                                  .mask_documents = options.mask_documents,
                                  .logits_bytes = options.logits_bytes};
    model = std::make_unique<Decoder<T>>(config, moe, context, table);
    const int ep_size = mesh != nullptr ? mesh->expert().size() : 1;
    layout =
        std::make_unique<device::ParamLayout>(table, ep_size, mesh != nullptr ? mesh->expert().rank() : 0);
    store = std::make_unique<device::ParamStore<T>>(*layout, device::DeviceKind::kCpu);
    store->initialize(options.seed);
    // Norm weights off 1, so that their place in every product is tested.
    const base::Philox rng(3);
    for (size_t row = 0; row < table.rows().size(); ++row) {
      if (table.row(int(row)).init.kind != device::Init::kOnes) continue;
      for (int64_t i = 0; i < layout->at(int(row)).count; ++i)
        value(int(row), i) += T(0.3 * rng.normal(i, row));
    }
    model->bind(*store);
    model->reserve(saved, scratch);
    saved.allocate();
    scratch.allocate();
    model->reserve(saved, scratch);
  }

  T& value(int row, int64_t i) { return at(*layout, row, i, &device::ParamStore<T>::values); }
  T& grad(int row, int64_t i) { return at(*layout, row, i, &device::ParamStore<T>::grads); }
  std::vector<T> grads() const {
    std::vector<T> all;
    for (device::Group group : {device::Group::kDense, device::Group::kExpert}) {
      const auto flat = store->grads(group);
      all.insert(all.end(), flat.begin(), flat.end());
    }
    return all;
  }

  // A linear function of the log-probabilities with weights that differ by token, plus the layers' own
  // losses. When `gradient`, adds it to the parameters' gradients.
  double step(const Batch& batch, bool gradient) {
    model->begin_step();
    const auto logp = model->forward(batch, true);
    const base::Philox rng(9);
    std::vector<T> dlogp(batch.num_tokens());
    double loss = 0;
    for (int64_t t = 0; t < batch.num_tokens(); ++t) {
      dlogp[t] = T(batch.loss_mask[t] * (0.5 + rng.uniform(t)));
      loss += double(dlogp[t]) * double(logp[t]);
    }
    const bool experts = !model->moe_stats().empty();
    if (!gradient && !experts) return loss;
    const std::vector<T> kept = gradient ? std::vector<T>() : grads();
    model->backward({dlogp.data(), {batch.num_tokens()}}, counts_of(batch), [](int) {});
    for (const moe::MoeStats& stats : model->moe_stats()) loss += stats.aux_loss + stats.z_loss;
    if (!gradient) restore_grads(kept);
    return loss;
  }

  device::ParamTable table;
  device::CpuQueue queue;
  std::unique_ptr<Decoder<T>> model;
  std::unique_ptr<device::ParamLayout> layout;
  std::unique_ptr<device::ParamStore<T>> store;
  device::Arena saved{"saved", device::DeviceKind::kCpu}, scratch{"scratch", device::DeviceKind::kCpu};

 private:
  using Flat = device::View<T, 1> (device::ParamStore<T>::*)(device::Group) const;
  T& at(const device::ParamLayout& l, int row, int64_t i, Flat flat) {
    return ((*store).*flat)(l.at(row).group).data()[l.at(row).offset + i];
  }
  void restore_grads(const std::vector<T>& kept) {
    auto next = kept.begin();
    for (device::Group group : {device::Group::kDense, device::Group::kExpert}) {
      for (T& g : store->grads(group)) g = *next++;
    }
  }
};

// The gradient of a few elements of every row, chosen by hash, against central differences of step().
inline void check_gradients(TestModel<double>& m, const Batch& batch, const std::string& label) {
  m.store->zero_grads();
  m.step(batch, true);
  const std::vector<double> exact = m.grads();
  for (int row = 0; row < int(m.table.rows().size()); ++row) {
    const std::string& name = m.table.row(row).name;
    const int64_t count = m.layout->at(row).count;
    double largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(m.grad(row, i)));
    EXPECT_GT(largest, 1e-6) << label << ": " << name << " gets no gradient";
    for (uint64_t pick = 0; pick < 4; ++pick) {
      const int64_t i = int64_t(base::mix(base::hash_name(name), pick) % uint64_t(count));
      double& x = m.value(row, i);
      const double old = x, step = 1e-6;  // small, so that no top-k choice changes within it
      x = old + step;
      const double above = m.step(batch, false);
      x = old - step;
      const double below = m.step(batch, false);
      x = old;
      const double difference = (above - below) / (2 * step);
      EXPECT_NEAR(m.grad(row, i), difference, 1e-6 + 1e-5 * std::abs(difference))
          << label << ": " << name << "[" << i << "]";
    }
  }
}

}  // namespace cadre::trainer
