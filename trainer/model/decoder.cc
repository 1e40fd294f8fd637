#include "trainer/model/decoder.h"

#include <algorithm>

#include "parallel/device/transfer.h"
#include "trainer/model/decoder_impl.h"

namespace cadre::trainer {

using device::View;

template <class T>
void Decoder<T>::Impl::declare(device::ParamTable& param_table) {
  table = &param_table;
  embed_row = param_table.add({.name = "embed.weight",
                               .shape = {config.vocab, config.dim},
                               .init = {device::Init::kNormal, config.init_std},
                               .update = device::Update::kElement,
                               .bucket = 0});
  for (int i = 0; i < config.layers; ++i)
    blocks[i]->declare(param_table, fmt::format("layers.{}", i), bucket_of(i));
  final_norm.declare(param_table, "final_norm.weight", config.dim, config.norm_eps, bucket_of(config.layers));
  head.declare(param_table, embed_row, bucket_of(config.layers));
}

// A shard of another tokenizer or a wrong batch would read outside of the tables.
template <class T>
void Decoder<T>::Impl::check(const Batch& batch) const {
  require(batch.num_tokens() <= context.max_tokens(), ExitCode::kUsage,
          "a micro-batch of {} tokens does not fit the model's {} (sequences x length)", batch.num_tokens(),
          context.max_tokens());
  const int64_t ranks = context.context_ranks(), whole = ranks > 1 ? batch.num_tokens() * ranks : 0;
  require(int64_t(batch.row_segment.size()) == whole, ExitCode::kUsage,
          "a micro-batch for {} ranks that share sequences has segments of {} tokens of them, expected {}",
          ranks, batch.row_segment.size(), whole);
  const auto outside = [&](int32_t id) { return id < 0 || id >= config.vocab; };
  for (const std::vector<int32_t>* ids : {&batch.tokens, &batch.targets}) {
    const auto bad = std::find_if(ids->begin(), ids->end(), outside);
    require(bad == ids->end(), ExitCode::kData,
            "found token {}, expected 0 to {}: the data and the model have different vocabularies",
            bad == ids->end() ? 0 : *bad, config.vocab - 1);
  }
  for (int32_t p : batch.position) {
    require(p >= 0 && p < rope.view().dim(0), ExitCode::kUsage, "found position {}, expected 0 to {}", p,
            rope.view().dim(0) - 1);
  }
}

template <class T>
void Decoder<T>::Impl::take_in(std::span<const int32_t> tokens, std::span<const int32_t> segments,
                               std::span<const int32_t> positions, std::span<const int32_t> row_segments) {
  const int64_t count = int64_t(tokens.size());
  rows_taken_in = count;
  device::upload<int32_t>(*context.queue, tokens, token);
  device::upload<int32_t>(*context.queue, segments, segment);
  device::upload<int32_t>(*context.queue, positions, position);
  micro.token = token.rows(0, count);
  micro.segment = segment.rows(0, count);
  micro.position = position.rows(0, count);
  micro.exchange = row_segments.empty() ? nullptr : &*exchange;
  if (micro.exchange != nullptr) {
    exchange->start(micro.num_sequences, micro.seq_len);
    device::upload<int32_t>(*context.queue, row_segments, row_segment);
  }
  // One document in every sequence needs no mask, and attention without one is faster. What attention sees decides, so
  // that ranks which share sequences decide alike.
  const auto& seen = row_segments.empty() ? segments : row_segments;
  const bool several = std::any_of(seen.begin(), seen.end(), [](int32_t s) { return s != 0; });
  micro.mask = !context.mask_documents || !several ? View<const int32_t, 1>()
               : row_segments.empty()              ? micro.segment
                                                   : row_segment.rows(0, int64_t(row_segments.size()));
  micro.rope = rope.view();
  micro.num_real = std::count_if(segments.begin(), segments.end(), [](int32_t s) { return s >= 0; });
}

template <class T>
void Decoder<T>::Impl::replay(const Batch& batch) {
  size_t width = 0, at = 0;  // choices of a token over all layers
  for (auto& block : blocks) width += block->moe() != nullptr ? size_t(block->moe()->top_k()) : 0;
  require(batch.routing.size() == size_t(batch.num_tokens()) * width, ExitCode::kData,
          "a batch of {} tokens has a routing of {} choices, this model makes {} a token", batch.num_tokens(),
          batch.routing.size(), width);
  std::vector<uint8_t> layer;
  for (auto& block : blocks) {
    if (block->moe() == nullptr) continue;
    const size_t top_k = size_t(block->moe()->top_k());
    layer.clear();
    for (size_t t = 0; t < size_t(batch.num_tokens()); ++t) {
      const auto from = batch.routing.begin() + long(t * width + at);
      layer.insert(layer.end(), from, from + long(top_k));
    }
    block->moe()->replay(layer);
    at += top_k;
  }
}

template <class T>
View<T, 2> Decoder<T>::Impl::embed() {
  const View<T, 2> x = embedded.rows(0, micro.num_tokens());
  context.kernels->embed(*context.queue, embed_weight, micro.token, x);
  return x;
}

template <class T>
void Decoder<T>::Impl::fetch_stats(std::vector<std::vector<double>>& sums) const {
  sums.resize(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i]->moe() != nullptr) blocks[i]->moe()->fetch_sums(sums[i]);
  }
}

template <class T>
Decoder<T>::Decoder(const ModelConfig& config, const std::optional<moe::MoeConfig>& moe,
                    const ModelContext<T>& context, device::ParamTable& table) {
  require(config.vocab > 0, ExitCode::kUsage, "model.vocab is 0; set it, or take it from the tokenizer");
  impl_ = std::make_unique<Impl>(config, moe, context);
  impl_->declare(table);
}
template <class T>
Decoder<T>::~Decoder() = default;

template <class T>
void Decoder<T>::bind(device::ParamStore<T>& store) {
  Impl& m = *impl_;
  m.embed_weight = store.template value<2>(m.embed_row);
  if (store.grads(device::Group::kDense).data() != nullptr)
    m.embed_grad = store.template grad<2>(m.embed_row);
  for (auto& block : m.blocks) block->bind(store);
  m.final_norm.bind(store);
  m.head.bind(store);
  m.store = &store;
  m.recorded.clear();
}

// Layers take turns in the memory of what they make again. Its size is found with arenas that only measure.
template <class T>
void Decoder<T>::Impl::reserve_blocks(device::Arena& saved, device::Arena& scratch) {
  device::Arena unused("unused", context.queue->kind()), sized("remade", context.queue->kind());
  for (auto& block : blocks) {
    block->reserve(unused, unused, sized);
    sized.release(0);
  }
  device::Arena remade("remade", saved.take<std::byte, 1>({int64_t(sized.bytes())}));
  for (auto& block : blocks) {
    block->reserve(saved, scratch, remade);
    remade.release(0);
  }
}

template <class T>
void Decoder<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  Impl& m = *impl_;
  m.recorded.clear();
  const int64_t tokens = m.context.max_tokens();
  for (View<int32_t, 1>* view : {&m.token, &m.segment, &m.position}) *view = saved.take<int32_t, 1>({tokens});
  if (m.exchange) m.row_segment = saved.take<int32_t, 1>({m.context.max_sequences * m.context.row_length()});
  for (View<T, 2>* view : {&m.embedded, &m.normed}) *view = saved.take<T, 2>({tokens, m.config.dim});
  for (View<T, 2>* view : {&m.dx, &m.dh}) *view = scratch.take<T, 2>({tokens, m.config.dim});
  if (m.exchange) m.exchange->reserve(saved, scratch);
  const size_t mark = scratch.mark();
  m.reserve_blocks(saved, scratch);
  m.final_norm.reserve(saved, tokens);
  m.head.reserve(saved, scratch);
  scratch.release(mark);
  m.rope.cover(m.context.row_length(), *m.context.queue);
}

template <class T>
void Decoder<T>::begin_step() {
  impl_->stats.clear();
  for (auto& block : impl_->blocks) {
    if (block->moe() != nullptr) block->moe()->begin_step();
  }
}

template <class T>
View<const device::wide_t<T>, 1> Decoder<T>::forward(const Batch& batch, bool training) {
  start_forward(batch, training, impl_->logp);
  impl_->context.queue->wait();
  return impl_->logp.finish();
}

template <class T>
void Decoder<T>::fetch_stats() {
  impl_->fetch_stats(impl_->stats);
}

template <class T>
std::vector<moe::MoeStats> Decoder<T>::moe_stats() const {
  std::vector<std::vector<double>> now;
  if (impl_->stats.empty()) {
    impl_->fetch_stats(now);
    impl_->context.queue->wait();
  }
  const auto& sums = impl_->stats.empty() ? now : impl_->stats;
  std::vector<moe::MoeStats> stats;
  for (size_t i = 0; i < impl_->blocks.size(); ++i) {
    if (impl_->blocks[i]->moe() != nullptr) stats.push_back(impl_->blocks[i]->moe()->stats(sums[i]));
  }
  return stats;
}

template <class T>
void Decoder<T>::after_step(const std::vector<std::vector<double>>& global_expert_tokens) {
  ++impl_->router_version;
  size_t next = 0;
  for (auto& block : impl_->blocks) {
    if (block->moe() != nullptr) block->moe()->after_step(global_expert_tokens.at(next++));
  }
}

template <class T>
moe::StateDict Decoder<T>::save_state() const {
  moe::StateDict state;
  for (size_t i = 0; i < impl_->blocks.size(); ++i) {
    const Block<T>& block = *impl_->blocks[i];
    if (block.moe() != nullptr) block.moe()->save(state, fmt::format("layers.{}.moe", i));
  }
  return state;
}

template <class T>
void Decoder<T>::load_state(const moe::StateDict& state) {
  ++impl_->router_version;
  for (size_t i = 0; i < impl_->blocks.size(); ++i) {
    Block<T>& block = *impl_->blocks[i];
    if (block.moe() != nullptr) block.moe()->load(state, fmt::format("layers.{}.moe", i));
  }
}

template <class T>
bool Decoder<T>::causal() const {
  return std::all_of(impl_->blocks.begin(), impl_->blocks.end(),
                     [](const auto& block) { return block->moe() == nullptr || block->moe()->causal(); });
}

template <class T>
bool Decoder<T>::split_dependent() const {
  return std::any_of(impl_->blocks.begin(), impl_->blocks.end(), [](const auto& block) {
    return block->moe() != nullptr && block->moe()->split_dependent();
  });
}

template <class T>
const ModelConfig& Decoder<T>::config() const {
  return impl_->config;
}

template <class T>
int64_t Decoder<T>::active_params() const {
  const Impl& m = *impl_;
  int64_t count = m.config.tie_head ? m.config.vocab * m.config.dim : 0;
  for (const device::ParamRow& row : m.table->rows()) {
    if (row.bucket == 0 || row.shape.size() < 2)
      continue;  // the embedding is a look-up; norms are not matmuls
    const bool expert = row.group == device::Group::kExpert;
    count += expert ? row.numel() / m.moe->num_experts * m.moe->top_k : row.numel();
  }
  return count;
}

template <class T>
double Decoder<T>::flops_per_token(double mean_length) const {
  const ModelConfig& c = impl_->config;
  return 6.0 * double(active_params()) + 6.0 * c.layers * mean_length * c.heads * double(c.head_size());
}

template class Decoder<float>;
template class Decoder<double>;
template class Decoder<device::bf16>;

}  // namespace cadre::trainer
