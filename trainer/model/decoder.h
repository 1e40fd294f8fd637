// The decoder-only transformer: embedding, L blocks of (RMSNorm, grouped-query attention with rotary
// positions, RMSNorm, SwiGLU or experts), final RMSNorm, head. Forward and backward are written out per
// module; saved activations live in arenas that are sized once. Parameter names are those of docs/formats.md.
#pragma once

#include <memory>
#include <optional>

#include "moe/config.h"
#include "parallel/comm/mesh.h"
#include "parallel/device/bf16.h"
#include "parallel/device/kernels.h"
#include "parallel/device/param_table.h"
#include "trainer/model/config.h"
#include "trainer/model/context.h"
#include "trainer/model/network.h"

namespace cadre::trainer {

template <class T>
class Decoder final : public Network<device::wide_t<T>> {
 public:
  using W = device::wide_t<T>;
  // moe is empty for a dense model. Declares its rows in `table`.
  Decoder(const ModelConfig& config, const std::optional<moe::MoeConfig>& moe, const ModelContext<T>& context,
          device::ParamTable& table);
  ~Decoder() override;

  void bind(device::ParamStore<T>& store);
  void reserve(device::Arena& saved, device::Arena& scratch) override;
  void begin_step() override;
  device::View<const W, 1> forward(const Batch& batch, bool training) override;
  void start_forward(const Batch& batch, bool training, LogProbs<W>& logp,
                     device::View<const W, 1> dlogp = {}) override;
  void backward(device::View<const W, 1> dlogp, const BatchCounts& counts,
                absl::FunctionRef<void(int)> on_bucket_done, device::AnyTap* tap = nullptr) override;
  void fetch_stats() override;
  std::vector<moe::MoeStats> moe_stats() const override;
  void after_step(const std::vector<std::vector<double>>& global_expert_tokens) override;
  std::unique_ptr<Cache> make_cache(int64_t max_tokens) override;
  device::View<const W, 1> extend(Cache& cache, const std::vector<int32_t>& tokens) override;
  std::unique_ptr<Cache> make_pages(const PageShape& shape) override;
  void copy_page(Cache& pages, int32_t from, int32_t to) override;
  void start_decode(Cache& pages, const DecodeBatch& batch, const device::SampleShape& shape) override;
  Decoded<W> finish_decode(Cache& pages) override;
  bool works_alone() const override;
  std::vector<uint8_t> last_routing() const override;
  moe::StateDict save_state() const override;
  void load_state(const moe::StateDict& state) override;
  bool causal() const override;
  bool split_dependent() const override;
  const ModelConfig& config() const override;
  double flops_per_token(double mean_length) const override;
  int64_t active_params() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
extern template class Decoder<float>;
extern template class Decoder<double>;
extern template class Decoder<device::bf16>;

}  // namespace cadre::trainer
