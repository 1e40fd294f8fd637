#include "trainer/model/head.h"

#include <algorithm>

#include "trainer/model/transfer.h"

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
  host_index_.reserve(tokens);
  host_target_.reserve(tokens);
  host_logp_.reserve(tokens);
  host_live_.reserve(tokens);
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
device::View<const device::wide_t<T>, 1> Head<T>::forward(View<const T, 2> x, const Batch& batch) {
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
  upload<int32_t>(queue, host_index_, index_);
  upload<int32_t>(queue, host_target_, target_);
  if (live < tokens) context_.kernels->embed(queue, x, index_.rows(0, live), compact_.rows(0, live));
  const View<const T, 2> rows = live_rows(x);
  for (int64_t begin = 0; begin < live; begin += chunk_) {
    const int64_t count = std::min(chunk_, live - begin);
    make_logits(rows, begin, count);
    context_.kernels->log_prob(queue, logits_.rows(0, count), target_.rows(begin, count),
                               logp_.rows(begin, count), lse_.rows(begin, count));
  }
  host_live_.resize(live);
  download<W>(queue, logp_, host_live_);
  host_logp_.assign(tokens, W(0));
  for (int64_t i = 0; i < live; ++i) host_logp_[host_index_[i]] = host_live_[i];
  return {host_logp_.data(), {tokens}};
}

template <class T>
void Head<T>::backward(View<const T, 2> x, View<const W, 1> dlogp, View<T, 2> dx, device::Tap<T>* tap) {
  const int64_t tokens = x.dim(0), live = int64_t(host_index_.size());
  device::Queue& queue = *context_.queue;
  for (int64_t i = 0; i < live; ++i) host_live_[i] = dlogp[host_index_[i]];
  upload<W>(queue, host_live_, dlogp_);
  const View<const T, 2> rows = live_rows(x);
  const View<T, 2> drows = live == tokens ? dx : dcompact_.rows(0, live);
  for (int64_t begin = 0; begin < live; begin += chunk_) {
    const int64_t count = std::min(chunk_, live - begin);
    if (live > chunk_) make_logits(rows, begin, count);
    const View<T, 2> dlogits = logits_.rows(0, count);
    context_.kernels->log_prob_backward(queue, dlogits, target_.rows(begin, count), lse_.rows(begin, count),
                                        dlogp_.rows(begin, count));
    linear_.backward(context_, rows.rows(begin, count), dlogits, drows.rows(begin, count), 0, tap,
                     index_.data() + begin);
  }
  if (live == tokens) return;
  context_.kernels->fill(queue, dx.template reshape<1>({dx.size()}), 0);
  context_.kernels->embed_backward(queue, drows, index_.rows(0, live), dx);  // each index once: a scatter
}

template <class T>
device::View<const device::wide_t<T>, 1> Head<T>::logits(View<const T, 2> x) {
  linear_.forward(context_, x, logits_.rows(0, 1));
  context_.queue->wait();
  std::copy_n(logits_.data(), config_.vocab, host_logits_.begin());
  return {host_logits_.data(), {config_.vocab}};
}

template class Head<float>;
template class Head<double>;

}  // namespace cadre::trainer
