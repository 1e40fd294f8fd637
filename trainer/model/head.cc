#include "trainer/model/head.h"

#include <algorithm>

#include "parallel/device/transfer.h"

namespace cadre::trainer {

template <class T>
void Head<T>::declare(device::ParamTable& table, int embed_row, int bucket) {
  if (config_.tie_head) {
    linear_.share(embed_row);
  } else {
    linear_.declare(table, "head.weight", config_.vocab, config_.dim, config_.init_std,
                    device::Update::kElement, bucket);
  }
}

template <class T>
void Head<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t tokens = context_.max_tokens();
  chunk_ = std::clamp<int64_t>(context_.logits_bytes / (config_.vocab * int64_t(sizeof(T))), 1, tokens);
  logits_ = saved.take<T, 2>({chunk_, config_.vocab});
  compact_ = saved.take<T, 2>({tokens, config_.dim});
  dcompact_ = scratch.take<T, 2>({tokens, config_.dim});
  for (View<int32_t, 1>* view : {&index_, &target_}) *view = saved.take<int32_t, 1>({tokens});
  for (View<W, 1>* view : {&logp_, &lse_, &dlogp_}) *view = saved.take<W, 1>({tokens});
  wide_ = scratch.take<W, 1>({config_.vocab});
  host_index_.reserve(tokens);
  host_target_.reserve(tokens);
  host_dlogp_.reserve(tokens);
  host_logits_.resize(config_.vocab);
}

template <class T>
device::View<const T, 2> Head<T>::live_rows(View<const T, 2> x) const {
  const int64_t live = int64_t(host_index_.size());
  return live == x.dim(0) ? x : View<const T, 2>(compact_.rows(0, live));
}

template <class T>
void Head<T>::make_logits(View<const T, 2> rows, int64_t begin, int64_t count) {
  linear_.forward(context_, rows.rows(begin, count), logits_.rows(0, count));
}

template <class T>
void Head<T>::upload_gradient(View<const W, 1> dlogp) {
  host_dlogp_.clear();
  for (const int32_t token : host_index_) host_dlogp_.push_back(dlogp[token]);
  device::upload(*context_.queue, host_dlogp_, dlogp_);
}

template <class T>
void Head<T>::forward(View<const T, 2> x, const Batch& batch, View<const W, 1> dlogp, LogProbs<W>& logp) {
  const int64_t tokens = x.dim(0);
  device::Queue& queue = *context_.queue;
  host_index_.clear();
  host_target_.clear();
  for (int64_t t = 0; t < tokens; ++t) {
    if (batch.loss_mask[t] == 0) continue;
    host_index_.push_back(int32_t(t));
    host_target_.push_back(batch.targets[t]);
  }
  const int64_t live = int64_t(host_index_.size());
  device::upload(queue, host_index_, index_);
  device::upload(queue, host_target_, target_);
  if (live < tokens) context_.kernels->embed(queue, x, index_.rows(0, live), compact_.rows(0, live));
  have_gradient_ = !dlogp.empty() && live <= chunk_;
  if (have_gradient_) upload_gradient(dlogp);
  const View<const T, 2> rows = live_rows(x);
  for (int64_t begin = 0; begin < live; begin += chunk_) {
    const int64_t count = std::min(chunk_, live - begin);
    make_logits(rows, begin, count);
    if (have_gradient_) {
      context_.kernels->log_prob_and_grad(queue, logits_.rows(0, live), target_.rows(0, live),
                                          dlogp_.rows(0, live), logp_.rows(0, live), lse_.rows(0, live));
      break;
    }
    context_.kernels->log_prob(queue, logits_.rows(0, count), target_.rows(begin, count),
                               logp_.rows(begin, count), lse_.rows(begin, count));
  }
  logp.index = host_index_;
  logp.live.resize(live);
  logp.all.resize(tokens);
  device::download<W>(queue, logp_, logp.live);
}

template <class T>
void Head<T>::backward(View<const T, 2> x, View<const W, 1> dlogp, View<T, 2> dx, device::Tap<T>* tap) {
  const int64_t tokens = x.dim(0), live = int64_t(host_index_.size());
  device::Queue& queue = *context_.queue;
  if (!have_gradient_) upload_gradient(dlogp);
  const View<const T, 2> rows = live_rows(x);
  const View<T, 2> drows = live == tokens ? dx : dcompact_.rows(0, live);
  for (int64_t begin = 0; begin < live; begin += chunk_) {
    const int64_t count = std::min(chunk_, live - begin);
    if (live > chunk_) make_logits(rows, begin, count);
    const View<T, 2> dlogits = logits_.rows(0, count);
    if (!have_gradient_) {
      context_.kernels->log_prob_backward(queue, dlogits, target_.rows(begin, count), lse_.rows(begin, count),
                                          dlogp_.rows(begin, count));
    }
    linear_.backward_weight(context_, rows.rows(begin, count), dlogits, tap, index_.data() + begin,
                            begin > 0);
    linear_.backward_input(context_, dlogits, drows.rows(begin, count), 0);
  }
  if (live == 0) linear_.no_gradient(context_);
  if (live == tokens) return;
  context_.kernels->fill(queue, dx.template reshape<1>({dx.size()}), 0);
  context_.kernels->embed_backward(queue, drows, index_.rows(0, live), dx);  // each index once: a scatter
}

template <class T>
device::View<const device::wide_t<T>, 1> Head<T>::logits(View<const T, 2> x) {
  linear_.forward(context_, x, logits_.rows(0, 1));
  context_.kernels->widen(*context_.queue, logits_[0], wide_);
  device::download<W>(*context_.queue, wide_, host_logits_);
  context_.queue->wait();
  return {host_logits_.data(), {config_.vocab}};
}

template <class T>
void Head<T>::sample(View<const T, 2> x, View<const int32_t, 1> drawn, const device::SampleShape& shape,
                     View<const double, 1> uniform, View<int32_t, 1> token, View<W, 1> logp) {
  const int64_t count = drawn.dim(0);
  if (count == 0) return;
  device::Queue& queue = *context_.queue;
  const View<T, 2> rows = compact_.rows(0, count);
  context_.kernels->embed(queue, x, drawn, rows);
  for (int64_t begin = 0; begin < count; begin += chunk_) {
    const int64_t size = std::min(chunk_, count - begin);
    make_logits(rows, begin, size);
    context_.kernels->sample(queue, logits_.rows(0, size), shape, uniform.rows(begin, size),
                             token.rows(begin, size), logp.rows(begin, size));
  }
}

template class Head<float>;
template class Head<double>;
template class Head<device::bf16>;

}  // namespace cadre::trainer
