#include "trainer/model/block.h"

#include <cmath>

namespace cadre::trainer {

namespace {
template <class T>
device::View<T, 1> flat(device::View<T, 2> x) {
  return x.template reshape<1>({x.size()});
}

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
  ffn_norm_.declare(table, prefix + ".ffn_norm.weight", config_.dim, config_.norm_eps, bucket);
  if (dense_) dense_->declare(table, prefix + ".ffn", bucket);
  if (moe_) moe_->declare(table, prefix + ".moe", bucket);
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
void Block<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t tokens = context_.max_tokens();
  for (View<T, 2>* view : {&attention_in_, &middle_, &ffn_in_, &out_}) {
    *view = saved.take<T, 2>({tokens, config_.dim});
  }
  attention_norm_.reserve(saved, tokens);
  ffn_norm_.reserve(saved, tokens);
  // The two halves run one after the other, so they share scratch.
  const size_t mark = scratch.mark();
  attention_.reserve(saved, scratch);
  scratch.release(mark);
  if (dense_) dense_->reserve(saved, scratch);
  if (moe_) moe_->reserve(saved, scratch);
  scratch.release(mark);
}

template <class T>
device::View<T, 2> Block<T>::normed_input(View<const T, 2> x) {
  const View<T, 2> in = attention_in_.rows(0, x.dim(0));
  attention_norm_.forward(context_, x, in);
  context_.kernels->copy(*context_.queue, flat(x), flat(middle_.rows(0, x.dim(0))));  // the residual
  return in;
}

template <class T>
device::View<T, 2> Block<T>::feed_forward(const MicroBatch<T>& batch, bool training) {
  const int64_t tokens = batch.num_tokens();
  const View<T, 2> middle = middle_.rows(0, tokens), in = ffn_in_.rows(0, tokens), out = out_.rows(0, tokens);
  ffn_norm_.forward(context_, middle, in);
  if (moe_) {
    moe_->forward(in, batch.segment, batch.num_real, out, training, batch.seq_len);
    context_.kernels->add(*context_.queue, flat(middle), flat(out));
  } else {
    context_.kernels->copy(*context_.queue, flat(middle), flat(out));
    dense_->forward(in, out);
  }
  return out;
}

template <class T>
device::View<T, 2> Block<T>::forward(View<const T, 2> x, const MicroBatch<T>& batch, bool training) {
  const View<T, 2> in = normed_input(x);
  attention_.forward(in, batch, middle_.rows(0, x.dim(0)));
  return feed_forward(batch, training);
}

template <class T>
device::View<T, 2> Block<T>::extend(View<const T, 2> x, const MicroBatch<T>& batch, KvLayer<T>& cache) {
  const View<T, 2> in = normed_input(x);
  attention_.extend(in, batch, cache, middle_.rows(0, x.dim(0)));
  return feed_forward(batch, false);
}

template <class T>
void Block<T>::backward(View<const T, 2> x, const MicroBatch<T>& batch, const BatchCounts& counts,
                        View<T, 2> dx, View<T, 2> dh, device::Tap<T>* tap) {
  const int64_t tokens = batch.num_tokens();
  const View<T, 2> ffn_in = ffn_in_.rows(0, tokens);
  if (moe_) {
    moe_->backward(ffn_in, batch.segment, dx, counts, dh, tap);
  } else {
    dense_->backward(ffn_in, dx, dh, tap);
  }
  ffn_norm_.backward(context_, dh, middle_.rows(0, tokens), dx, tap);
  attention_.backward(attention_in_.rows(0, tokens), batch, dx, dh, tap);
  attention_norm_.backward(context_, dh, x, dx, tap);
}

template class Block<float>;
template class Block<double>;
template class Block<device::bf16>;

}  // namespace cadre::trainer
