// Generation over pages: rows of many sequences through the decoder at once, each against the keys and values of its own.
#include <algorithm>

#include "parallel/device/transfer.h"
#include "trainer/model/decoder_impl.h"
#include "trainer/model/padded_rows.h"

namespace cadre::trainer {

using device::View;

template <class T>
std::unique_ptr<Cache> Decoder<T>::make_pages(const PageShape& shape) {
  Impl& m = *impl_;
  require(
      causal(), ExitCode::kUsage,
      "this model cannot generate: its router lets a token's experts depend on later tokens (expert choice)");
  require(!m.moe || m.moe->capacity_factor == 0, ExitCode::kUsage,
          "this model cannot generate many sequences at once: with moe.capacity_factor {} a token's experts "
          "depend on "
          "the other tokens of its batch; set it to 0",
          m.moe ? m.moe->capacity_factor : 0);
  const auto& kernels = *m.context.kernels;
  require(kernels.store_kv && kernels.paged_attention && kernels.sample, ExitCode::kUsage,
          "this device has no kernels for generation in pages; set device: cpu");
  m.rope.cover(shape.max_length, *m.context.queue);
  return std::make_unique<PagedCache<T>>(shape, m.config.layers, m.config.kv_heads, m.config.head_size(),
                                         m.context.max_tokens(), m.context.queue->kind());
}

template <class T>
void Decoder<T>::copy_page(Cache& any, int32_t from, int32_t to) {
  auto& cache = static_cast<PagedCache<T>&>(any);
  impl_->context.kernels->copy(*impl_->context.queue, cache.page(from), cache.page(to));
}

template <class T>
void Decoder<T>::Impl::pass(PagedCache<T>& cache, const device::SampleShape& shape) {
  const PassMemory<W>& in = cache.memory_of_pass;
  PagedRows<T> rows{{}, in.page_table, in.owner, in.length, in.place};
  context.kernels->follow_drawn(*context.queue, in.last_drawn(), in.follows, in.token);
  View<T, 2> x = embed();
  for (size_t i = 0; i < blocks.size(); ++i) {
    rows.pages = cache.layer(int(i));
    x = blocks[i]->decode(x, micro, rows);
  }
  const View<T, 2> out = normed.rows(0, x.dim(0));
  final_norm.forward(context, x, out);
  head.sample(out, in.drawn, shape, in.uniform, in.drawn_token, in.logp);
}

// On a GPU a pass is padded to one of few sizes and recorded for each, unless ranks exchange tokens in it.
template <class T>
void Decoder<T>::start_decode(Cache& any, const DecodeBatch& batch, const device::SampleShape& shape) {
  Impl& m = *impl_;
  auto& cache = static_cast<PagedCache<T>&>(any);
  device::Queue& queue = *m.context.queue;
  const int64_t limit = m.context.max_tokens(), draws = int64_t(batch.drawn.size());
  require(batch.num_rows() > 0 && batch.num_rows() <= limit && draws <= limit, ExitCode::kUsage,
          "{} rows and {} draws in one pass, the model was made for {} (sequences x length)",
          batch.num_rows(), draws, limit);
  const bool padded = queue.kind() != device::DeviceKind::kCpu;
  const bool alone = m.context.mesh == nullptr || m.context.mesh->expert().size() == 1;
  PassSize size{batch.num_rows(), draws, batch.pages_per_row};
  if (padded) size = {padded_rows(size.rows, limit), padded_rows(draws, limit), size.pages_per_row};
  m.rope.cover(cache.shape.max_length, queue);
  PassMemory<W>& in = cache.memory_of_pass;
  in.load(queue, batch, size, cache.shape.page_size);
  m.micro = {.num_sequences = 1,
             .seq_len = size.rows,
             .token = in.token,
             .segment = in.segment,
             .position = in.position,
             .mask = {},
             .rope = m.rope.view(),
             .num_real = size.rows};
  // What the host knows of the routing is a bound, so a recorded pass may take padding for tokens.
  if (!padded || !alone)
    m.micro.num_real =
        std::count_if(batch.owner.begin(), batch.owner.end(), [](int32_t owner) { return owner >= 0; });
  m.rows_taken_in = batch.num_rows();
  m.trained = false;
  for (int bucket = 0; bucket <= m.bucket_of(m.config.layers); ++bucket) this->before_bucket(bucket);
  const auto work = [&] { m.pass(cache, shape); };
  device::Recording* const recording =
      alone ? cache.passes.find(queue, {in.address(), m.rope.view().data(), m.router_version}, size, shape)
            : nullptr;
  recording != nullptr ? recording->run(work) : work();
  in.fetch(queue, draws);
}

template <class T>
Decoded<device::wide_t<T>> Decoder<T>::finish_decode(Cache& any) {
  return static_cast<PagedCache<T>&>(any).memory_of_pass.finish();
}

template <class T>
bool Decoder<T>::works_alone() const {
  return impl_->context.queue->kind() != device::DeviceKind::kCpu;
}

template <class T>
std::vector<uint8_t> Decoder<T>::last_routing() const {
  std::vector<std::vector<int32_t>> layers;
  const int64_t rows = impl_->rows_taken_in;
  for (const auto& block : impl_->blocks) {
    if (block->moe() == nullptr) continue;
    const auto last = block->moe()->choice();  // a recorded pass leaves the shape of another one
    const View<const int32_t, 2> choice(last.data(), {rows, last.dim(1)});
    layers.emplace_back(size_t(choice.size()));
    device::download<int32_t>(*impl_->context.queue, choice.template reshape<1>({choice.size()}),
                              layers.back());
  }
  impl_->context.queue->wait();
  std::vector<uint8_t> all;
  for (int64_t row = 0; row < rows; ++row) {
    for (const auto& layer : layers) {
      const int64_t top_k = int64_t(layer.size()) / rows;
      for (int64_t k = 0; k < top_k; ++k) {
        const int32_t expert = layer[size_t(row * top_k + k)];
        all.push_back(expert < 0 ? kNoExpert : uint8_t(expert));
      }
    }
  }
  return all;
}

#define CADRE_INSTANTIATE(T)                                                                      \
  template std::unique_ptr<Cache> Decoder<T>::make_pages(const PageShape&);                       \
  template void Decoder<T>::copy_page(Cache&, int32_t, int32_t);                                  \
  template void Decoder<T>::start_decode(Cache&, const DecodeBatch&, const device::SampleShape&); \
  template Decoded<device::wide_t<T>> Decoder<T>::finish_decode(Cache&);                          \
  template bool Decoder<T>::works_alone() const;                                                  \
  template std::vector<uint8_t> Decoder<T>::last_routing() const;
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::trainer
