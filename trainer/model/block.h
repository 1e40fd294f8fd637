// One layer: x + attention(norm(x)), then the same with a dense or a mixture-of-experts feed-forward.
#pragma once

#include <absl/functional/function_ref.h>

#include <optional>

#include "moe/moe_layer.h"
#include "trainer/model/attention_block.h"
#include "trainer/model/dense_ffn.h"

namespace cadre::trainer {

template <class T>
class Block {
 public:
  template <class U, int N>
  using View = device::View<U, N>;

  // moe is null for a dense layer.
  Block(const ModelConfig& config, const ModelContext<T>& context, const moe::MoeConfig* moe);
  // Two buckets: attention with its norm is `bucket`, the feed-forward half with its norm the next.
  static constexpr int kBuckets = 2;
  void declare(device::ParamTable& table, const std::string& prefix, int bucket);
  void bind(device::ParamStore<T>& store);
  // remade: for what ModelContext::recompute says to make again; lives within one forward or backward call, so that
  // layers may share it.
  void reserve(device::Arena& saved, device::Arena& scratch, device::Arena& remade);

  // The layer's output (T, D), valid from its forward to the next; x stays unchanged until backward. between() is
  // called before the second half's weights are read.
  void forward(View<const T, 2> x, const MicroBatch<T>& batch, bool training,
               absl::FunctionRef<void()> between);
  View<T, 2> output(int64_t tokens) const { return out_.rows(0, tokens); }
  // dx holds the gradient of the output and becomes that of x; dh (T, D) is scratch. first() is called before weights are
  // read; where experts are on several ranks, beside the rows of dx on their way to them. between() is called when the
  // second half's gradients are complete: experts are most of a model, and their sums travel beside attention's backward
  // pass. The first half's are after end_backward, which may come in first() of the next layer's backward.
  void backward(View<const T, 2> x, const MicroBatch<T>& batch, const BatchCounts& counts, View<T, 2> dx,
                View<T, 2> dh, device::Tap<T>* tap, absl::FunctionRef<void()> first,
                absl::FunctionRef<void()> between);
  void end_backward(int64_t tokens, device::Tap<T>* tap);
  View<T, 2> extend(View<const T, 2> x, const MicroBatch<T>& batch, KvLayer<T>& cache);

  View<T, 2> decode(View<const T, 2> x, const MicroBatch<T>& batch, const PagedRows<T>& rows);

  moe::MoeLayer<T>* moe() { return moe_ ? &*moe_ : nullptr; }
  const moe::MoeLayer<T>* moe() const { return moe_ ? &*moe_ : nullptr; }

 private:
  View<T, 2> normed_input(View<const T, 2> x);
  void add_attention(View<const T, 2> x, const MicroBatch<T>& batch);
  // Whether end_backward has work left for it. It needs memory of its own, and other layers may not remake anything in
  // the place of what it reads. A tap sees the parts of a layer in one order, whatever the mesh. Where work may be left,
  // the rest is cut off it always: bits depend neither on a tap nor on what is remade.
  bool postpones(const device::Tap<T>* tap) const {
    return tap == nullptr && context_.recompute == Recompute::kNone && shares_experts();
  }
  bool shares_experts() const { return context_.mesh != nullptr && context_.mesh->expert().size() > 1; }
  void remake_all(View<const T, 2> x, const MicroBatch<T>& batch);
  View<T, 2> feed_forward(const MicroBatch<T>& batch, bool training);

  const ModelConfig& config_;
  const ModelContext<T>& context_;
  RmsNorm<T> attention_norm_, ffn_norm_;
  AttentionBlock<T> attention_;
  std::optional<DenseFfn<T>> dense_;  // this or the next
  std::optional<moe::MoeLayer<T>> moe_;
  // (T, D): norm(x), x + attention, norm(middle), output; the last is saved, the others may be made again.
  View<T, 2> attention_in_, middle_, ffn_in_, out_;
};

}  // namespace cadre::trainer
