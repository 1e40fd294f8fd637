// A stream is the text of one (domain, bucket): its documents or their pieces (planner/pieces.h), in the order of an epoch's
// permutations, as sequences. Full pieces and rests have a permutation each, since a full piece fills a sequence and a rest
// does not: a sequence is one full piece, or rests that follow each other, cut at its end as documents are. Sequences of
// rests come whenever so many are due that the epoch's rests are used up as fast as its full pieces; the last ones come
// at its end, where the next epoch's rests fill the sequence up. Should these be fewer than that, what is left is padding, for
// no piece is drawn again before all others were.
//
// The state is the epoch, a cursor for each kind and the positions used of the rest under its cursor; the two totals beside
// them only save walking the past again to know how far the cap is.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "data/planner/pieces.h"

namespace cadre::data {

struct StreamState {
  uint64_t epoch = 0, cursor = 0;
  int64_t offset = 0;  // trained positions of the current rest that are used up
  int64_t tokens = 0, sequences = 0;
  uint64_t full = 0;  // full pieces drawn in this epoch
};

class Stream {
 public:
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

  // documents: global indices, rising. key: of (seed, stream). Without documents nothing is available.
  Stream(std::vector<uint32_t> documents, const Corpus& corpus, const PlannerConfig& config, uint64_t key);

  // Sequences left below the cap of max_epochs times the stream's positions (unpacked: pieces); at least so many.
  int64_t available() const;
  PlanSequence draw(
      int domain);  // available() > 0. At the cap the last sequence may be short: the rest is padding.
  int64_t epoch_tokens() const { return pieces_.tokens(); }
  const StreamState& state() const { return state_; }
  // False, and nothing happens, for a state that no sequence of draws gives.
  bool restore(const StreamState& state);

 private:
  PlanSegment rest_at(uint64_t epoch, uint64_t cursor) const;
  PlanSegment full_at(uint64_t epoch, uint64_t cursor) const;
  int64_t rest_tokens_drawn(const StreamState& state) const;  // in its epoch, when packed
  bool full_is_next() const;
  void add(const PlanSegment& segment, PlanSequence& sequence);
  void end_epoch_if_used_up();

  Pieces pieces_;
  PlannerConfig config_;
  uint64_t key_;
  int64_t cap_ = kUnlimited;  // tokens when packed, else pieces
  StreamState state_;
};

}  // namespace cadre::data
