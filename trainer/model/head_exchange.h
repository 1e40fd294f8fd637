// Context parallelism (`mesh.cp`): the ranks of a context group hold the tokens of the same sequences, each its part, and
// attention needs whole sequences. So around attention, tokens are exchanged for heads (Jacobs et al. 2023, arXiv
// 2309.14509, "DeepSpeed-Ulysses"): every rank gets all tokens for its share of the heads, runs the device's attention on
// whole sequences as a run without context groups does, masks and all, and sends each rank's tokens home.
//
// Rank c of cp gets query heads [c N / cp, (c + 1) N / cp) and the KV heads that these read: G / cp of them, or, where there
// are fewer KV heads than ranks, one, which cp / G ranks then share. Gradients of a shared KV head are added in rank
// order.
#pragma once

#include <span>

#include "parallel/device/memory.h"
#include "trainer/model/context.h"

namespace cadre::trainer {

// Heads of one of `ranks` ranks.
struct HeadShare {
  int64_t heads = 0, kv_heads = 0;
};
HeadShare head_share(const ModelConfig& config, int64_t ranks);

template <class T>
class HeadExchange {
 public:
  template <class U, int N>
  using View = device::View<U, N>;

  // Throws Error(kUsage) where cp does not divide the heads.
  HeadExchange(const ModelConfig& config, const ModelContext<T>& context);
  void reserve(device::Arena& saved, device::Arena& scratch);
  // Before the first exchange of a micro-batch with so many sequences and tokens of each on this rank.
  void start(int64_t num_sequences, int64_t seq_len);

  // The same values seen from both sides. tokens: (T, heads, h), all heads of this rank's tokens. sequences:
  // (cp T, heads of this rank, h), whole sequences one after the other.
  struct Sides {
    View<T, 3> tokens, sequences;
  };
  // Overwrite one side with the other. At most three at once. Collective over the context group.
  void to_sequences(std::span<const Sides> all) const;
  void to_tokens(std::span<const Sides> all) const;

 private:
  bool shared(const Sides& sides) const;  // KV heads that several ranks have
  // (cp T, heads of a rank, h) of scratch by destination or origin, for the at-th of those that travel together.
  View<T, 2> packed(const Sides& sides, size_t at) const;
  void travel(std::span<const Sides> all, bool home) const;

  const ModelConfig& config_;
  const ModelContext<T>& context_;
  const int64_t ranks_;
  const HeadShare share_;
  int64_t num_sequences_ = 0, seq_len_ = 0;  // of the micro-batch in work
  // Rows of tokens by destination, and back: (cp T) each, saved. With one row a rank and token, or one a KV head.
  View<int32_t, 1> by_rank_, by_token_, shared_by_rank_;
  int64_t tokens_placed_ = -1;  // that these are for
  View<T, 1> packed_[3];        // scratch
};

}  // namespace cadre::trainer
