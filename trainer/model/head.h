// The output head: logits = x W^T, then the log-probability of each target. Only tokens that count in the
// loss are computed. Logits exist in chunks of at most ModelContext::logits_bytes; when one chunk holds all
// of a micro-batch the backward pass uses the logits of the forward pass, else it makes each chunk again.
#pragma once

#include <vector>

#include "parallel/base/batch.h"
#include "trainer/model/config.h"
#include "trainer/model/linear.h"
#include "trainer/model/log_probs.h"

namespace cadre::trainer {

template <class T>
class Head {
 public:
  template <class U, int N>
  using View = device::View<U, N>;
  using W = device::wide_t<T>;

  Head(const ModelConfig& config, const ModelContext<T>& context) : config_(config), context_(context) {}
  // Declares head.weight, or shares the embedding's row when the head is tied.
  void declare(device::ParamTable& table, int embed_row, int bucket);
  void bind(device::ParamStore<T>& store) { linear_.bind(store); }
  void reserve(device::Arena& saved, device::Arena& scratch);

  // x: (N, D). Queues the work; see LogProbs. dlogp as in Network::start_forward: with it, and when one chunk holds
  // all, the logits become their gradient at once.
  void forward(View<const T, 2> x, const Batch& batch, View<const W, 1> dlogp, LogProbs<W>& logp);
  // dlogp: (N) in host memory. dx is overwritten; x as in the last forward.
  void backward(View<const T, 2> x, View<const W, 1> dlogp, View<T, 2> dx, device::Tap<T>* tap);
  // All logits (V) of one token (1, D), in host memory, valid until the next call.
  View<const W, 1> logits(View<const T, 2> x);
  // Queues the draw of a token after each of `drawn` rows of x, which may repeat, at most as many as a micro-batch has
  // tokens; see DeviceKernels::sample.
  void sample(View<const T, 2> x, View<const int32_t, 1> drawn, const device::SampleShape& shape,
              View<const double, 1> uniform, View<int32_t, 1> token, View<W, 1> logp);
  int row() const { return linear_.row(); }

 private:
  // The rows of x that count: x itself, or a compact copy.
  View<const T, 2> live_rows(View<const T, 2> x) const;
  void make_logits(View<const T, 2> rows, int64_t begin, int64_t count);
  void upload_gradient(View<const W, 1> dlogp);

  const ModelConfig& config_;
  const ModelContext<T>& context_;
  Linear<T> linear_;
  int64_t chunk_ = 0;                // tokens
  View<T, 2> logits_;                // (chunk, V) saved
  View<T, 2> compact_;               // (T, D) saved
  View<T, 2> dcompact_;              // (T, D) scratch
  View<int32_t, 1> index_, target_;  // (T) of live tokens, saved
  View<W, 1> logp_, lse_, dlogp_;    // (T) of live tokens, saved
  View<W, 1> wide_;                  // (V) one token's logits, scratch
  bool have_gradient_ = false;       // in logits_, since the forward pass
  std::vector<int32_t> host_index_, host_target_;
  std::vector<W> host_dlogp_, host_logits_;
};

}  // namespace cadre::trainer
