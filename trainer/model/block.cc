#include "trainer/model/block.h"

#include <cmath>

namespace cadre::trainer {

namespace {
template <class T>
moe::MoeContext<T> moe_context(const ModelConfig& config, const ModelContext<T>& context) {
  return {.queue = context.queue,
          .kernels = context.kernels,
          .mesh = context.mesh,
          .dim = config.dim,
          .max_tokens = context.max_tokens(),
          .seq_len = context.seq_len,
          .init_std = config.init_std,
          .out_init_std = config.init_std / std::sqrt(2.0 * config.layers)};
}
}  // namespace

template <class T>
Block<T>::Block(const ModelConfig& config, const ModelContext<T>& context, const moe::MoeConfig* moe)
    : config_(config), context_(context), attention_(config, context) {
  if (moe != nullptr) {
    moe_.emplace(*moe, moe_context(config, context));
  } else {
    dense_.emplace(config, context);
  }
}

template <class T>
void Block<T>::declare(device::ParamTable& table, const std::string& prefix, int bucket) {
  attention_norm_.declare(table, prefix + ".attn_norm.weight", config_.dim, config_.norm_eps, bucket);
  attention_.declare(table, prefix + ".attn", bucket);
  ffn_norm_.declare(table, prefix + ".ffn_norm.weight", config_.dim, config_.norm_eps, bucket + 1);
  if (dense_) dense_->declare(table, prefix + ".ffn", bucket + 1);
  if (moe_) moe_->declare(table, prefix + ".moe", bucket + 1);
}

template <class T>
void Block<T>::bind(device::ParamStore<T>& store) {
  attention_norm_.bind(store);
  attention_.bind(store);
  ffn_norm_.bind(store);
  if (dense_) dense_->bind(store);
  if (moe_) moe_->bind(store);
}

template <class T>
void Block<T>::reserve(device::Arena& saved, device::Arena& scratch, device::Arena& remade) {
  const int64_t tokens = context_.max_tokens();
  device::Arena& normed = context_.recompute == Recompute::kNone ? saved : remade;
  device::Arena& inner = context_.recompute == Recompute::kFull ? remade : saved;
  for (View<T, 2>* view : {&attention_in_, &ffn_in_}) *view = normed.take<T, 2>({tokens, config_.dim});
  middle_ = inner.take<T, 2>({tokens, config_.dim});
  out_ = saved.take<T, 2>({tokens, config_.dim});
  attention_norm_.reserve(inner, tokens);
  ffn_norm_.reserve(inner, tokens);
  // The two halves run one after the other, so they share scratch, but for what one leaves to do beside the other.
  const size_t mark = scratch.mark();
  attention_.reserve(inner, scratch, normed);
  if (!postpones(nullptr)) scratch.release(mark);
  if (dense_) dense_->reserve(inner, scratch);
  if (moe_) moe_->reserve(saved, scratch, inner);
  scratch.release(mark);
}

template <class T>
device::View<T, 2> Block<T>::normed_input(View<const T, 2> x) {
  const View<T, 2> in = attention_in_.rows(0, x.dim(0));
  attention_norm_.forward(context_, x, in);
  return in;
}

template <class T>
device::View<T, 2> Block<T>::feed_forward(const MicroBatch<T>& batch, bool training) {
  const int64_t tokens = batch.num_tokens();
  const View<T, 2> middle = middle_.rows(0, tokens), in = ffn_in_.rows(0, tokens), out = out_.rows(0, tokens);
  ffn_norm_.forward(context_, middle, in);
  if (moe_) {
    moe_->forward(in, batch.segment, batch.num_real, out, training, batch.seq_len, middle);
  } else {
    dense_->forward(in, middle, out);
  }
  return out;
}

template <class T>
void Block<T>::forward(View<const T, 2> x, const MicroBatch<T>& batch, bool training,
                       absl::FunctionRef<void()> between) {
  add_attention(x, batch);
  between();
  feed_forward(batch, training);
}

template <class T>
void Block<T>::add_attention(View<const T, 2> x, const MicroBatch<T>& batch) {
  attention_.forward(normed_input(x), batch, x, middle_.rows(0, x.dim(0)));
}

template <class T>
void Block<T>::remake_all(View<const T, 2> x, const MicroBatch<T>& batch) {
  const int64_t tokens = batch.num_tokens();
  const View<T, 2> in = ffn_in_.rows(0, tokens);
  add_attention(x, batch);
  ffn_norm_.forward(context_, middle_.rows(0, tokens), in);
  if (moe_) moe_->remake(in);
  if (dense_) dense_->remake(in);
}

template <class T>
device::View<T, 2> Block<T>::extend(View<const T, 2> x, const MicroBatch<T>& batch, KvLayer<T>& cache) {
  const View<T, 2> in = normed_input(x);
  attention_.extend(in, batch, cache, x, middle_.rows(0, x.dim(0)));
  return feed_forward(batch, false);
}

template <class T>
device::View<T, 2> Block<T>::decode(View<const T, 2> x, const MicroBatch<T>& batch,
                                    const PagedRows<T>& rows) {
  const View<T, 2> in = normed_input(x);
  attention_.decode(in, batch, rows, x, middle_.rows(0, x.dim(0)));
  return feed_forward(batch, false);
}

template <class T>
void Block<T>::backward(View<const T, 2> x, const MicroBatch<T>& batch, const BatchCounts& counts,
                        View<T, 2> dx, View<T, 2> dh, device::Tap<T>* tap, absl::FunctionRef<void()> first,
                        absl::FunctionRef<void()> between) {
  const int64_t tokens = batch.num_tokens();
  const View<T, 2> attention_in = attention_in_.rows(0, tokens), middle = middle_.rows(0, tokens),
                   ffn_in = ffn_in_.rows(0, tokens);
  const bool selective = context_.recompute == Recompute::kSelective;
  const bool beside = moe_ && context_.recompute == Recompute::kNone;
  if (!beside) first();
  if (context_.recompute == Recompute::kFull) remake_all(x, batch);
  if (selective) ffn_norm_.forward(context_, middle, ffn_in);
  if (moe_) {
    moe_->backward(ffn_in, batch.segment, dx, counts, dh, tap, [&] {
      if (beside) first();
    });
  } else {
    dense_->backward(ffn_in, dx, dh, tap);
  }
  ffn_norm_.backward(context_, dh, middle, true, dx, tap);
  between();
  if (selective) {
    attention_norm_.forward(context_, x, attention_in);
    attention_.remake(batch);
  }
  attention_.backward(attention_in, batch, dx, dh, tap);
  if (shares_experts()) {
    attention_.backward_out_weight(dx, tap);
    if (!postpones(tap)) attention_.backward_in_weights(attention_in, tap);
  } else {
    attention_.backward_weights(attention_in, dx, tap);
  }
  attention_norm_.backward(context_, dh, x, true, dx, tap);
}

template <class T>
void Block<T>::end_backward(int64_t tokens, device::Tap<T>* tap) {
  if (postpones(tap)) attention_.backward_in_weights(attention_in_.rows(0, tokens), tap);
}

template class Block<float>;
template class Block<double>;
template class Block<device::bf16>;

}  // namespace cadre::trainer
