// Generation: the decoder fed a few tokens at a time, with the keys and values of earlier ones in a cache.
#include <algorithm>

#include "trainer/model/decoder_impl.h"
#include "trainer/model/kv_cache.h"

namespace cadre::trainer {

using device::View;

template <class T>
std::unique_ptr<Cache> Decoder<T>::make_cache(int64_t max_tokens) {
  Impl& m = *impl_;
  require(
      causal(), ExitCode::kUsage,
      "this model cannot generate: its router lets a token's experts depend on later tokens (expert choice)");
  m.rope.cover(max_tokens, *m.context.queue);
  return std::make_unique<KvCache<T>>(m.config.layers, max_tokens, m.config.kv_heads, m.config.head_size(),
                                      m.context.queue->kind());
}

template <class T>
View<const device::wide_t<T>, 1> Decoder<T>::extend(Cache& any, const std::vector<int32_t>& tokens) {
  Impl& m = *impl_;
  auto& cache = static_cast<KvCache<T>&>(any);
  const int64_t total = int64_t(tokens.size()), limit = m.context.max_tokens();
  require(total > 0 && cache.layer[0].used + total <= cache.capacity, ExitCode::kUsage,
          "found {} tokens to add to {} of a cache of {}; make a larger cache", total, cache.layer[0].used,
          cache.capacity);
  m.rope.cover(cache.capacity, *m.context.queue);
  this->before_bucket(0);
  View<T, 2> x;
  for (int64_t begin = 0; begin < total; begin += limit) {  // a long prompt goes in pieces
    const int64_t count = std::min(limit, total - begin);
    std::vector<int32_t> position(count);
    const std::vector<int32_t> segment(count, 0);
    for (int64_t i = 0; i < count; ++i) position[i] = int32_t(cache.layer[0].used + i);
    m.micro.num_sequences = 1;
    m.micro.seq_len = count;
    m.take_in(std::span(tokens).subspan(begin, count), segment, position);
    x = m.embed();
    for (size_t i = 0; i < m.blocks.size(); ++i) {
      for (int half = 0; half < Block<T>::kBuckets; ++half) this->before_bucket(m.bucket_of(int(i)) + half);
      x = m.blocks[i]->extend(x, m.micro, cache.layer[i]);
    }
    x = x.rows(count - 1, 1);
  }
  m.trained = false;
  const View<T, 2> normed = m.normed.rows(0, 1);
  this->before_bucket(m.bucket_of(m.config.layers));
  m.final_norm.forward(m.context, x, normed);
  return m.head.logits(normed);
}

#define CADRE_INSTANTIATE(T)                                       \
  template std::unique_ptr<Cache> Decoder<T>::make_cache(int64_t); \
  template View<const device::wide_t<T>, 1> Decoder<T>::extend(Cache&, const std::vector<int32_t>&);
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::trainer
