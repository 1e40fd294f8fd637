// Grouped-query attention (Ainslie et al. 2023) with rotary positions, and RMSNorm of each head's query and
// key, or of the whole projected rows, as ModelConfig::qk_norm says. Rows of a micro-batch are (T, D); heads are
// contiguous within a row.
#pragma once

#include <array>
#include <string>

#include "trainer/model/config.h"
#include "trainer/model/kv_cache.h"
#include "trainer/model/linear.h"
#include "trainer/model/paged_cache.h"
#include "trainer/model/rms_norm.h"

namespace cadre::trainer {

template <class T>
class AttentionBlock {
 public:
  template <class U, int N>
  using View = device::View<U, N>;
  using W = device::wide_t<T>;

  AttentionBlock(const ModelConfig& config, const ModelContext<T>& context)
      : config_(config), context_(context) {}
  void declare(device::ParamTable& table, const std::string& prefix, int bucket);
  void bind(device::ParamStore<T>& store);
  // remade: see Block::reserve.
  void reserve(device::Arena& saved, device::Arena& scratch, device::Arena& remade);

  // y = plus + attention(x). x stays unchanged until backward.
  void forward(View<const T, 2> x, const MicroBatch<T>& batch, View<const T, 2> plus, View<T, 2> y);
  // Makes again what is in `remade`, from what is in `saved`.
  void remake(const MicroBatch<T>& batch);
  // dx is overwritten. Then, with the same x and dy, what dx does not need, the gradients of the matrices: by
  // backward_weights; or by backward_out_weight, after which dy may change, and by backward_in_weights. Until the end what
  // this took from scratch stays as it is, and so do x and `remade`.
  void backward(View<const T, 2> x, const MicroBatch<T>& batch, View<const T, 2> dy, View<T, 2> dx,
                device::Tap<T>* tap);
  void backward_weights(View<const T, 2> x, View<const T, 2> dy, device::Tap<T>* tap);
  void backward_out_weight(View<const T, 2> dy, device::Tap<T>* tap);
  void backward_in_weights(View<const T, 2> x, device::Tap<T>* tap);
  // The same for one sequence whose earlier tokens are in the cache; appends this piece's keys and values.
  void extend(View<const T, 2> x, const MicroBatch<T>& batch, KvLayer<T>& cache, View<const T, 2> plus,
              View<T, 2> y);

  // The same for rows of many sequences whose keys and values are in pages; puts these rows' there first.
  void decode(View<const T, 2> x, const MicroBatch<T>& batch, const PagedRows<T>& rows, View<const T, 2> plus,
              View<T, 2> y);

 private:
  // What attention reads and writes: this rank's tokens, or whole sequences of its share of the heads.
  struct Attended {
    device::AttentionShape shape;
    View<T, 3> q, k, v, out;
    View<W, 2> lse;
  };
  Attended attended(const MicroBatch<T>& batch) const;
  void attend(const MicroBatch<T>& batch);
  // From dout_ to dq_, dk_, dv_.
  void attend_backward(const MicroBatch<T>& batch);
  device::AttentionShape shape(const MicroBatch<T>& batch) const;
  bool exchanges() const { return context_.context_ranks() > 1; }
  void reserve_exchange(device::Arena& saved, device::Arena& scratch);
  // First `tokens` rows of a saved (max tokens, heads, h) view, and the same as a matrix with one row a token
  // or a head.
  View<T, 3> heads(const View<T, 3>& x, int64_t tokens) const { return x.rows(0, tokens); }
  View<T, 2> matrix(const View<T, 3>& x, int64_t tokens) const {
    return x.rows(0, tokens).template reshape<2>({tokens, x.dim(1) * x.dim(2)});
  }
  View<T, 2> by_head(const View<T, 3>& x, int64_t tokens) const {
    return x.rows(0, tokens).template reshape<2>({tokens * x.dim(1), x.dim(2)});
  }
  bool normed() const { return config_.qk_norm != QkNorm::kNone; }
  // The rows that QK-norm looks at: one a head, or one a token.
  View<T, 2> norm_rows(const View<T, 3>& x, int64_t tokens) const {
    return config_.qk_norm == QkNorm::kFull ? matrix(x, tokens) : by_head(x, tokens);
  }
  // What the projections write, of some tokens.
  struct Projected {
    View<T, 3> q, k, v;
  };
  Projected projected(int64_t tokens) const;
  // The same places, but each follows the one before where those of all tokens do, so that few tokens too are one batch
  // of products.
  Projected packed(int64_t tokens) const;
  // `raw`, normed and rotated: where a backward pass looks for them if there is a norm, else in place.
  Projected project(View<const T, 2> x, const MicroBatch<T>& batch, const Projected& raw);
  void multiply(View<const T, 2> x, const Projected& raw) const;
  Projected norm_and_rotate(const MicroBatch<T>& batch, const Projected& raw);
  // Puts new keys and values into their pages and returns the queries.
  View<T, 3> place(View<const T, 2> x, const MicroBatch<T>& batch, const PagedRows<T>& rows);
  void rotate(const MicroBatch<T>& batch, const View<T, 3>& q, const View<T, 3>& k, bool inverse);
  void backward_weights_of(const WeightPart<T>* out, View<const T, 2> x, device::Tap<T>* tap);
  // Gradients of what the projections wrote, from backward on.
  std::array<View<T, 2>, 3> projected_grads(int64_t tokens) const {
    return {matrix(normed() ? dout_ : dq_, tokens), matrix(normed() ? dk_raw_ : dk_, tokens),
            matrix(dv_, tokens)};
  }

  const ModelConfig& config_;  // of the decoder that owns this block, like the next
  const ModelContext<T>& context_;
  Linear<T> wq_, wk_, wv_, wo_;
  RmsNorm<T> q_norm_, k_norm_;
  // Saved: q and k after norm and rotation (remade with a qk_norm); before both with a qk_norm.
  View<T, 3> q_, k_, v_, q_raw_, k_raw_, out_;
  View<W, 2> lse_;
  View<T, 3> dq_, dk_, dv_, dout_, dk_raw_;  // scratch; dout_ also takes the gradient of q_raw_
  // Where ranks share sequences, (R, heads of this rank, h) with R the tokens of whole sequences: the same of those, saved
  // in place of q_, k_, v_ and lse_, and gradients in scratch.
  View<T, 3> whole_q_, whole_k_, whole_v_, whole_out_, whole_dq_, whole_dk_, whole_dv_, whole_dout_;
  View<W, 2> whole_lse_;
};

}  // namespace cadre::trainer
