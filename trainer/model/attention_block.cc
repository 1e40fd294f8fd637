#include "trainer/model/attention_block.h"

#include <cmath>

namespace cadre::trainer {

template <class T>
void AttentionBlock<T>::declare(device::ParamTable& table, const std::string& prefix, int bucket) {
  const int64_t d = config_.dim, h = config_.head_size(), q = config_.heads * h, kv = config_.kv_heads * h;
  const double std = config_.init_std, out_std = config_.init_std / std::sqrt(2.0 * config_.layers);
  wq_.declare(table, prefix + ".wq", q, d, std, device::Update::kMatrix, bucket);
  wk_.declare(table, prefix + ".wk", kv, d, std, device::Update::kMatrix, bucket);
  wv_.declare(table, prefix + ".wv", kv, d, std, device::Update::kMatrix, bucket);
  wo_.declare(table, prefix + ".wo", d, q, out_std, device::Update::kMatrix, bucket);
  if (normed()) {
    const bool full = config_.qk_norm == QkNorm::kFull;
    q_norm_.declare(table, prefix + ".q_norm.weight", full ? q : h, config_.norm_eps, bucket);
    k_norm_.declare(table, prefix + ".k_norm.weight", full ? kv : h, config_.norm_eps, bucket);
  }
}

template <class T>
void AttentionBlock<T>::bind(device::ParamStore<T>& store) {
  for (Linear<T>* linear : {&wq_, &wk_, &wv_, &wo_}) linear->bind(store);
  if (!normed()) return;
  q_norm_.bind(store);
  k_norm_.bind(store);
}

template <class T>
void AttentionBlock<T>::reserve(device::Arena& saved, device::Arena& scratch, device::Arena& remade) {
  const int64_t tokens = context_.max_tokens(), h = config_.head_size(), n = config_.heads,
                g = config_.kv_heads;
  // What the projections write, and the gradients of it, lie side by side: see forward_together.
  // After an exchange attention's backward pass looks at whole sequences alone.
  device::Arena& projected = exchanges() ? scratch : saved;
  device::Arena& rotated = exchanges() ? scratch : normed() ? remade : saved;
  if (normed()) {
    q_raw_ = saved.take<T, 3>({tokens, n, h});
    k_raw_ = saved.take<T, 3>({tokens, g, h});
    v_ = projected.take<T, 3>({tokens, g, h});
  }
  q_ = rotated.take<T, 3>({tokens, n, h});
  k_ = rotated.take<T, 3>({tokens, g, h});
  if (!normed()) v_ = projected.take<T, 3>({tokens, g, h});
  out_ = saved.take<T, 3>({tokens, n, h});
  lse_ = projected.take<W, 2>({tokens, n});
  if (exchanges()) reserve_exchange(saved, scratch);
  if (!normed()) dout_ = scratch.take<T, 3>({tokens, n, h});
  dq_ = scratch.take<T, 3>({tokens, n, h});
  dk_ = scratch.take<T, 3>({tokens, g, h});
  if (normed()) {
    dout_ = scratch.take<T, 3>({tokens, n, h});
    dk_raw_ = scratch.take<T, 3>({tokens, g, h});
    q_norm_.reserve(saved, tokens * n);
    k_norm_.reserve(saved, tokens * g);
  }
  dv_ = scratch.take<T, 3>({tokens, g, h});
}

template <class T>
typename AttentionBlock<T>::Projected AttentionBlock<T>::projected(int64_t tokens) const {
  return {heads(normed() ? q_raw_ : q_, tokens), heads(normed() ? k_raw_ : k_, tokens), heads(v_, tokens)};
}

template <class T>
typename AttentionBlock<T>::Projected AttentionBlock<T>::packed(int64_t tokens) const {
  const Projected all = projected(context_.max_tokens());
  const auto rows = [](const View<T, 3>& x) {
    return x.template reshape<2>({x.dim(0), x.dim(1) * x.dim(2)});
  };
  if (together<T, 3>({rows(all.q), rows(all.k), rows(all.v)}).empty()) return projected(tokens);
  const auto part = [&](int64_t which) {
    return View<T, 3>(all.q.data() + which * tokens * all.q.dim(1) * all.q.dim(2),
                      {tokens, all.q.dim(1), all.q.dim(2)});
  };
  return {part(0), part(1), part(2)};
}

template <class T>
typename AttentionBlock<T>::Projected AttentionBlock<T>::project(View<const T, 2> x,
                                                                 const MicroBatch<T>& batch,
                                                                 const Projected& raw) {
  multiply(x, raw);
  return norm_and_rotate(batch, raw);
}

template <class T>
void AttentionBlock<T>::multiply(View<const T, 2> x, const Projected& raw) const {
  const int64_t tokens = x.dim(0);
  forward_together<T, 3>(context_, {&wq_, &wk_, &wv_}, x,
                         {matrix(raw.q, tokens), matrix(raw.k, tokens), matrix(raw.v, tokens)});
}

template <class T>
typename AttentionBlock<T>::Projected AttentionBlock<T>::norm_and_rotate(const MicroBatch<T>& batch,
                                                                         const Projected& raw) {
  const int64_t tokens = batch.num_tokens();
  Projected done = raw;
  if (normed()) {
    done = {heads(q_, tokens), heads(k_, tokens), raw.v};
    q_norm_.forward(context_, norm_rows(raw.q, tokens), norm_rows(done.q, tokens));
    k_norm_.forward(context_, norm_rows(raw.k, tokens), norm_rows(done.k, tokens));
  }
  rotate(batch, done.q, done.k, false);
  return done;
}

// As many queries as keys in a whole micro-batch lie one after the other: one pass takes both.
template <class T>
void AttentionBlock<T>::rotate(const MicroBatch<T>& batch, const View<T, 3>& q, const View<T, 3>& k,
                               bool inverse) {
  const auto rope = [&](View<T, 3> x) {
    context_.kernels->rope(*context_.queue, x, batch.position, batch.rope, inverse);
  };
  if (q.shape() == k.shape() && k.data() == q.data() + q.size())
    return rope({q.data(), {2 * q.dim(0), q.dim(1), q.dim(2)}});
  rope(q);
  rope(k);
}

template <class T>
void AttentionBlock<T>::remake(const MicroBatch<T>& batch) {
  if (normed() && !exchanges()) norm_and_rotate(batch, projected(batch.num_tokens()));
}

template <class T>
void AttentionBlock<T>::forward(View<const T, 2> x, const MicroBatch<T>& batch, View<const T, 2> plus,
                                View<T, 2> y) {
  const int64_t tokens = x.dim(0);
  project(x, batch, projected(tokens));
  attend(batch);
  wo_.forward_onto(context_, matrix(out_, tokens), plus, y);
}

template <class T>
void AttentionBlock<T>::extend(View<const T, 2> x, const MicroBatch<T>& batch, KvLayer<T>& cache,
                               View<const T, 2> plus, View<T, 2> y) {
  const int64_t tokens = x.dim(0), row = k_.dim(1) * k_.dim(2);
  project(x, batch, projected(tokens));
  const auto append = [&](const View<T, 3>& from, const View<T, 3>& to) {
    context_.kernels->copy(*context_.queue, heads(from, tokens).template reshape<1>({tokens * row}),
                           to.rows(cache.used, tokens).template reshape<1>({tokens * row}));
  };
  append(k_, cache.k);
  append(v_, cache.v);
  device::AttentionShape with_past = shape(batch);
  with_past.num_past = cache.used;
  cache.used += tokens;
  context_.kernels->attention(*context_.queue, with_past, heads(q_, tokens), cache.k.rows(0, cache.used),
                              cache.v.rows(0, cache.used), {}, heads(out_, tokens), lse_.rows(0, tokens));
  wo_.forward_onto(context_, matrix(out_, tokens), plus, y);
}

template <class T>
device::View<T, 3> AttentionBlock<T>::place(View<const T, 2> x, const MicroBatch<T>& batch,
                                            const PagedRows<T>& rows) {
  const int64_t tokens = x.dim(0);
  const Projected raw = packed(tokens);
  multiply(x, raw);
  if (const auto place_heads = context_.kernels->place_heads) {
    place_heads(*context_.queue, {.q = raw.q,
                                  .k = raw.k,
                                  .v = raw.v,
                                  .q_weight = q_norm_.weight(),
                                  .k_weight = k_norm_.weight(),
                                  .eps = config_.norm_eps,
                                  .position = batch.position,
                                  .table = batch.rope,
                                  .place = rows.place,
                                  .pages = rows.pages,
                                  .q_out = heads(q_, tokens)});
    return heads(q_, tokens);
  }
  const Projected now = norm_and_rotate(batch, raw);
  context_.kernels->store_kv(*context_.queue, now.k, now.v, rows.place, rows.pages);
  return now.q;
}

template <class T>
void AttentionBlock<T>::decode(View<const T, 2> x, const MicroBatch<T>& batch, const PagedRows<T>& rows,
                               View<const T, 2> plus, View<T, 2> y) {
  const int64_t tokens = x.dim(0);
  const View<T, 3> q = place(x, batch, rows);
  context_.kernels->paged_attention(*context_.queue, q, rows.pages, rows.page_table, rows.owner, rows.length,
                                    heads(out_, tokens));
  wo_.forward_onto(context_, matrix(out_, tokens), plus, y);
}

template <class T>
void AttentionBlock<T>::backward(View<const T, 2> x, const MicroBatch<T>& batch, View<const T, 2> dy,
                                 View<T, 2> dx, device::Tap<T>* tap) {
  const int64_t tokens = x.dim(0);
  wo_.backward_input(context_, dy, matrix(dout_, tokens), 0);
  attend_backward(batch);
  rotate(batch, heads(dq_, tokens), heads(dk_, tokens), true);
  if (normed()) {
    const bool full = config_.qk_norm == QkNorm::kFull;
    q_norm_.backward(context_, norm_rows(dq_, tokens), norm_rows(q_raw_, tokens), false,
                     norm_rows(dout_, tokens), tap, full ? 1 : config_.heads);
    k_norm_.backward(context_, norm_rows(dk_, tokens), norm_rows(k_raw_, tokens), false,
                     norm_rows(dk_raw_, tokens), tap, full ? 1 : config_.kv_heads);
  }
  backward_inputs<T, 3>(context_, {&wq_, &wk_, &wv_}, projected_grads(tokens), dx);
}

template <class T>
void AttentionBlock<T>::backward_weights(View<const T, 2> x, View<const T, 2> dy, device::Tap<T>* tap) {
  const WeightPart<T> out{&wo_, matrix(out_, x.dim(0)), dy};
  backward_weights_of(&out, x, tap);
}

template <class T>
void AttentionBlock<T>::backward_out_weight(View<const T, 2> dy, device::Tap<T>* tap) {
  wo_.backward_weight(context_, matrix(out_, dy.dim(0)), dy, tap);
}

template <class T>
void AttentionBlock<T>::backward_in_weights(View<const T, 2> x, device::Tap<T>* tap) {
  backward_weights_of(nullptr, x, tap);
}

template <class T>
void AttentionBlock<T>::backward_weights_of(const WeightPart<T>* out, View<const T, 2> x,
                                            device::Tap<T>* tap) {
  trainer::backward_weights<T, 3>(context_, out, {&wq_, &wk_, &wv_}, x, projected_grads(x.dim(0)), tap);
}

template class AttentionBlock<float>;
template class AttentionBlock<double>;
template class AttentionBlock<device::bf16>;

}  // namespace cadre::trainer
