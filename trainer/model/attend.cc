// The middle of an attention block, between projections and output: on this rank's tokens, or, where ranks share sequences,
// on whole ones with a share of the heads.
#include "trainer/model/attention_block.h"
#include "trainer/model/head_exchange.h"

namespace cadre::trainer {

template <class T>
void AttentionBlock<T>::reserve_exchange(device::Arena& saved, device::Arena& scratch) {
  const HeadShare share = head_share(config_, context_.context_ranks());
  const int64_t rows = context_.max_sequences * context_.row_length(), h = config_.head_size();
  for (View<T, 3>* view : {&whole_q_, &whole_out_}) *view = saved.take<T, 3>({rows, share.heads, h});
  for (View<T, 3>* view : {&whole_k_, &whole_v_}) *view = saved.take<T, 3>({rows, share.kv_heads, h});
  whole_lse_ = saved.take<W, 2>({rows, share.heads});
  for (View<T, 3>* view : {&whole_dq_, &whole_dout_}) *view = scratch.take<T, 3>({rows, share.heads, h});
  for (View<T, 3>* view : {&whole_dk_, &whole_dv_}) *view = scratch.take<T, 3>({rows, share.kv_heads, h});
}

template <class T>
device::AttentionShape AttentionBlock<T>::shape(const MicroBatch<T>& batch) const {
  return {.num_sequences = batch.num_sequences,
          .seq_len = batch.seq_len,
          .num_heads = config_.heads,
          .num_kv_heads = config_.kv_heads,
          .head_dim = config_.head_size()};
}

template <class T>
typename AttentionBlock<T>::Attended AttentionBlock<T>::attended(const MicroBatch<T>& batch) const {
  const int64_t tokens = batch.num_tokens();
  if (batch.exchange == nullptr)
    return {shape(batch),      heads(q_, tokens),   heads(k_, tokens),
            heads(v_, tokens), heads(out_, tokens), lse_.rows(0, tokens)};
  const int64_t ranks = context_.context_ranks(), rows = tokens * ranks;
  device::AttentionShape whole = shape(batch);
  whole.seq_len *= ranks;
  whole.num_heads = whole_q_.dim(1);
  whole.num_kv_heads = whole_k_.dim(1);
  return {whole,
          heads(whole_q_, rows),
          heads(whole_k_, rows),
          heads(whole_v_, rows),
          heads(whole_out_, rows),
          whole_lse_.rows(0, rows)};
}

template <class T>
void AttentionBlock<T>::attend(const MicroBatch<T>& batch) {
  const int64_t tokens = batch.num_tokens();
  const Attended a = attended(batch);
  using Sides = typename HeadExchange<T>::Sides;
  if (batch.exchange != nullptr) {
    const Sides in[] = {{heads(q_, tokens), a.q}, {heads(k_, tokens), a.k}, {heads(v_, tokens), a.v}};
    batch.exchange->to_sequences(in);
  }
  context_.kernels->attention(*context_.queue, a.shape, a.q, a.k, a.v, batch.mask, a.out, a.lse);
  if (batch.exchange == nullptr) return;
  const Sides out[] = {{heads(out_, tokens), a.out}};
  batch.exchange->to_tokens(out);
}

template <class T>
void AttentionBlock<T>::attend_backward(const MicroBatch<T>& batch) {
  const int64_t tokens = batch.num_tokens();
  const auto& kernels = *context_.kernels;
  const Attended a = attended(batch);
  const View<T, 3> dout = heads(dout_, tokens), dq = heads(dq_, tokens), dk = heads(dk_, tokens),
                   dv = heads(dv_, tokens);
  if (batch.exchange == nullptr)
    return kernels.attention_backward(*context_.queue, a.shape, dout, a.q, a.k, a.v, batch.mask, a.out, a.lse,
                                      dq, dk, dv);
  using Sides = typename HeadExchange<T>::Sides;
  const int64_t rows = a.q.dim(0);
  const Sides in[] = {{dout, heads(whole_dout_, rows)}};
  const Sides out[] = {
      {dq, heads(whole_dq_, rows)}, {dk, heads(whole_dk_, rows)}, {dv, heads(whole_dv_, rows)}};
  batch.exchange->to_sequences(in);
  kernels.attention_backward(*context_.queue, a.shape, in[0].sequences, a.q, a.k, a.v, batch.mask, a.out,
                             a.lse, out[0].sequences, out[1].sequences, out[2].sequences);
  batch.exchange->to_tokens(out);
}

#define CADRE_INSTANTIATE(T)                                                            \
  template void AttentionBlock<T>::reserve_exchange(device::Arena&, device::Arena&);    \
  template device::AttentionShape AttentionBlock<T>::shape(const MicroBatch<T>&) const; \
  template void AttentionBlock<T>::attend(const MicroBatch<T>&);                        \
  template void AttentionBlock<T>::attend_backward(const MicroBatch<T>&);
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::trainer
