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
                                         m.context.queue->kind());
}

template <class T>
void Decoder<T>::copy_page(Cache& any, int32_t from, int32_t to) {
  auto& cache = static_cast<PagedCache<T>&>(any);
  impl_->context.kernels->copy(*impl_->context.queue, cache.page(from), cache.page(to));
}

namespace {

// Where each row's key and value go; -1 for padding.
std::vector<int32_t> places(const DecodeBatch& batch, int64_t page_size) {
  std::vector<int32_t> place(batch.token.size(), -1);
  for (size_t t = 0; t < place.size(); ++t) {
    if (batch.owner[t] < 0) continue;
    const int64_t page = batch.position[t] / page_size, offset = batch.position[t] % page_size;
    place[t] =
        int32_t(batch.page_table[size_t(batch.owner[t] * batch.pages_per_row + page)] * page_size + offset);
  }
  return place;
}

// The same with more rows of padding.
DecodeBatch with_rows(DecodeBatch batch, int64_t rows) {
  batch.token.resize(size_t(rows), 0);
  batch.position.resize(size_t(rows), 0);
  batch.owner.resize(size_t(rows), -1);
  return batch;
}

std::vector<int32_t> lengths(const DecodeBatch& batch) {
  std::vector<int32_t> length(batch.token.size(), 0);
  for (size_t t = 0; t < length.size(); ++t) {
    if (batch.owner[t] >= 0) length[t] = batch.position[t] + 1;
  }
  return length;
}

}  // namespace

template <class T>
Decoded<device::wide_t<T>> Decoder<T>::decode(Cache& any, const DecodeBatch& given,
                                              const device::SampleShape& shape) {
  Impl& m = *impl_;
  auto& cache = static_cast<PagedCache<T>&>(any);
  device::Queue& queue = *m.context.queue;
  const int64_t limit = m.context.max_tokens();
  require(given.num_rows() > 0 && given.num_rows() <= limit && int64_t(given.drawn.size()) <= limit,
          ExitCode::kUsage,
          "{} rows and {} draws in one pass, the model was made for {} (sequences x length)",
          given.num_rows(), given.drawn.size(), limit);
  const bool padded = queue.kind() != device::DeviceKind::kCpu;
  const int64_t count = padded ? padded_rows(given.num_rows(), limit) : given.num_rows();
  const DecodeBatch batch = with_rows(given, count);
  m.rope.cover(cache.shape.max_length, queue);
  const size_t table_bytes = std::max<size_t>(1, batch.page_table.size()) * sizeof(int32_t);
  if (m.page_table.bytes() < table_bytes) {
    queue.wait();
    m.page_table = device::Buffer(queue.kind(), 2 * table_bytes);
  }
  const View<int32_t, 2> table(reinterpret_cast<int32_t*>(m.page_table.data()),
                               {batch.num_sequences(), batch.pages_per_row});
  std::vector<int32_t> segment(batch.token.size());
  for (size_t t = 0; t < segment.size(); ++t) segment[t] = batch.owner[t] < 0 ? -1 : 0;
  m.micro.num_sequences = 1;
  m.micro.seq_len = count;
  m.take_in(batch.token, segment, batch.position);
  m.rows_taken_in = given.num_rows();
  device::upload(queue, batch.page_table, table.template reshape<1>({table.size()}));
  device::upload(queue, batch.owner, m.owner);
  device::upload(queue, lengths(batch), m.length);
  device::upload(queue, places(batch, cache.shape.page_size), m.place);
  PagedRows<T> rows{{}, table, m.owner.rows(0, count), m.length.rows(0, count), m.place.rows(0, count)};
  this->before_bucket(0);
  View<T, 2> x = m.embed();
  for (size_t i = 0; i < m.blocks.size(); ++i) {
    for (int half = 0; half < Block<T>::kBuckets; ++half) this->before_bucket(m.bucket_of(int(i)) + half);
    rows.pages = cache.layer(int(i));
    x = m.blocks[i]->decode(x, m.micro, rows);
  }
  m.trained = false;
  const View<T, 2> normed = m.normed.rows(0, count);
  this->before_bucket(m.bucket_of(m.config.layers));
  m.final_norm.forward(m.context, x, normed);
  return m.head.sample(normed, batch, shape);
}

template <class T>
std::vector<uint8_t> Decoder<T>::last_routing() const {
  std::vector<std::vector<int32_t>> layers;
  const int64_t rows = impl_->rows_taken_in;
  for (const auto& block : impl_->blocks) {
    if (block->moe() == nullptr) continue;
    const View<const int32_t, 2> choice = block->moe()->choice().rows(0, rows);
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

#define CADRE_INSTANTIATE(T)                                                          \
  template std::unique_ptr<Cache> Decoder<T>::make_pages(const PageShape&);           \
  template void Decoder<T>::copy_page(Cache&, int32_t, int32_t);                      \
  template Decoded<device::wide_t<T>> Decoder<T>::decode(Cache&, const DecodeBatch&,  \
                                                         const device::SampleShape&); \
  template std::vector<uint8_t> Decoder<T>::last_routing() const;
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::trainer
