// What a stream draws, one after the other: its documents whole, or the pieces that they are cut into (PlannerConfig::pieces).
// A document of n positions has floor(n / seq_len) full pieces, each as long as a sequence, and one of what is left, its rest;
// drawn whole it is one rest of any length. Both kinds are numbered over the stream and found by number, from sums over the
// documents before: 4 bytes a document that is drawn whole; of pieces 12 for a document with a full one and 4 for one with a rest.
#pragma once

#include <cstdint>
#include <vector>

#include "data/planner.h"

namespace cadre::data {

class Pieces {
 public:
  // documents: global indices, rising. `corpus` is borrowed.
  Pieces(std::vector<uint32_t> documents, const Corpus& corpus, const PlannerConfig& config);

  uint64_t num_full() const { return num_full_; }
  uint64_t num_rests() const { return rests_.size(); }
  PlanSegment full(uint64_t index) const;  // index < num_full()
  PlanSegment rest(uint64_t index) const;  // index < num_rests()
  int64_t tokens() const { return tokens_; }
  int64_t rest_tokens() const { return rest_tokens_; }
  int64_t sequences() const {
    return sequences_;
  }  // when each holds one piece, or of a document drawn whole one part

 private:
  int64_t positions(int64_t document) const;  // a document of n tokens, bos to eos, has n - 1 to train on

  const Corpus* corpus_;
  int64_t seq_len_;
  bool cut_;
  std::vector<uint32_t> long_;         // documents with full pieces
  std::vector<uint64_t> full_before_;  // by element of long_: full pieces of those before it
  std::vector<uint32_t> rests_;        // documents with a rest
  uint64_t num_full_ = 0;
  int64_t tokens_ = 0, rest_tokens_ = 0, sequences_ = 0;
};

}  // namespace cadre::data
