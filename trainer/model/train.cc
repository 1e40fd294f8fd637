// A micro-batch forward and back. On a GPU what lies between its uploads and the head is recorded, where it is the same
// work each time; the head is not, as how many tokens count in the loss is another number for each batch.
#include <algorithm>

#include "trainer/model/decoder_impl.h"

namespace cadre::trainer {

using device::View;

template <class T>
device::Recording* Decoder<T>::Impl::recording(bool backward) {
  const bool alone = context.mesh == nullptr || context.mesh->world().size() == 1;
  const bool dense =
      std::all_of(blocks.begin(), blocks.end(), [](const auto& block) { return block->moe() == nullptr; });
  if (!alone || !dense) return nullptr;
  return recorded.find(*context.queue, rope.view().data(),
                       {.backward = backward,
                        .adds = backward && store->adds(),
                        .masked = !micro.mask.empty(),
                        .num_sequences = micro.num_sequences,
                        .seq_len = micro.seq_len});
}

template <class T>
View<T, 2> Decoder<T>::Impl::input_of(size_t layer) const {
  const int64_t tokens = micro.num_tokens();
  return layer == 0 ? embedded.rows(0, tokens) : blocks[layer - 1]->output(tokens);
}

template <class T>
void Decoder<T>::Impl::layers_forward(bool training, absl::FunctionRef<void(int)> before) {
  before(0);
  embed();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const int bucket = bucket_of(int(i));
    before(bucket);
    blocks[i]->forward(input_of(i), micro, training, [&] { before(bucket + 1); });
  }
  before(bucket_of(config.layers));
  final_norm.forward(context, input_of(blocks.size()), normed.rows(0, micro.num_tokens()));
}

template <class T>
void Decoder<T>::Impl::layers_backward(const BatchCounts& counts, device::Tap<T>* tap,
                                       absl::FunctionRef<void(int)> before,
                                       absl::FunctionRef<void(int)> done) {
  const int64_t tokens = micro.num_tokens();
  const View<T, 2> to_dx = dx.rows(0, tokens), to_dh = dh.rows(0, tokens);
  final_norm.backward(context, to_dh, input_of(blocks.size()), false, to_dx, tap);
  done(bucket_of(config.layers));
  const auto end_layer = [&](size_t layer) {
    blocks[layer]->end_backward(tokens, tap);
    done(bucket_of(int(layer)));
  };
  for (int i = config.layers - 1; i >= 0; --i) {
    const int bucket = bucket_of(i);
    const auto first = [&] {
      if (i + 1 < config.layers) end_layer(size_t(i) + 1);
      before(bucket + 1);
      before(bucket);
    };
    blocks[size_t(i)]->backward(input_of(size_t(i)), micro, counts, to_dx, to_dh, tap, first,
                                [&] { done(bucket + 1); });
  }
  end_layer(0);
  if (!config.tie_head) before(0);
  context.kernels->embed_backward(*context.queue, to_dx, micro.token, embed_grad);
  if (tap != nullptr) tap->on_lookup(embed_row, micro.token, to_dx);
  done(0);
}

template <class T>
void Decoder<T>::start_forward(const Batch& batch, bool training, LogProbs<W>& logp, View<const W, 1> dlogp) {
  Impl& m = *impl_;
  m.rope.cover(m.context.row_length(), *m.context.queue);  // generation may have covered another length
  m.check(batch);
  m.micro.num_sequences = batch.num_sequences;
  m.micro.seq_len = batch.seq_len;
  m.take_in(batch.tokens, batch.segment, batch.position, batch.row_segment);
  if (!batch.routing.empty()) m.replay(batch);
  const auto before = [this](int bucket) { this->before_bucket(bucket); };
  if (device::Recording* const recording = training ? m.recording(false) : nullptr) {
    for (int bucket = 0; bucket <= m.bucket_of(m.config.layers); ++bucket) before(bucket);
    recording->run([&] { m.layers_forward(true, [](int) {}); });
  } else {
    m.layers_forward(training, before);
  }
  m.trained = training;
  m.head.forward(m.normed.rows(0, m.micro.num_tokens()), batch, dlogp, logp);
}

template <class T>
void Decoder<T>::backward(View<const W, 1> dlogp, const BatchCounts& counts,
                          absl::FunctionRef<void(int)> on_bucket_done, device::AnyTap* any_tap) {
  Impl& m = *impl_;
  auto* const tap = dynamic_cast<device::Tap<T>*>(any_tap);
  require(any_tap == nullptr || tap != nullptr, ExitCode::kUsage,
          "a tap has another storage type than the model");
  assert(m.trained && dlogp.dim(0) == m.micro.num_tokens());
  const int64_t tokens = m.micro.num_tokens();
  const int last = m.bucket_of(m.config.layers);
  if (m.config.tie_head) this->before_backward(0);  // the head adds to the embedding's gradient
  this->before_backward(last);
  m.head.backward(m.normed.rows(0, tokens), dlogp, m.dh.rows(0, tokens), tap);
  const auto before = [this](int bucket) { this->before_backward(bucket); };
  if (device::Recording* const recording = tap == nullptr ? m.recording(true) : nullptr) {
    // Values are here and sums go nowhere on one rank, so that buckets may be spoken of all together.
    for (int bucket = last - 1; bucket >= 0; --bucket) before(bucket);
    recording->run([&] {
      m.layers_backward(
          counts, nullptr, [](int) {}, [](int) {});
    });
    for (int bucket = last; bucket >= 0; --bucket) on_bucket_done(bucket);
  } else {
    m.layers_backward(counts, tap, before, on_bucket_done);
  }
  m.store->end_backward();
  m.trained = false;  // the saved activations are used up
}

#define CADRE_INSTANTIATE(T)                                                                             \
  template void Decoder<T>::start_forward(const Batch&, bool, LogProbs<W>&, View<const W, 1>);           \
  template void Decoder<T>::backward(View<const W, 1>, const BatchCounts&, absl::FunctionRef<void(int)>, \
                                     device::AnyTap*);
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::trainer
