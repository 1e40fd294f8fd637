// A stream is the documents of one (domain, bucket) in the order of an epoch's permutation, cut into
// sequences. Its state is the epoch, the cursor within it and the positions used of the document under the
// cursor; the two totals beside them only save walking the past again to know how far the cap is.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "data/planner.h"

namespace cadre::data {

struct StreamState {
  uint64_t epoch = 0, cursor = 0;
  int64_t offset = 0;  // trained positions of the current document that are used up
  int64_t tokens = 0, sequences = 0;
};

class Stream {
 public:
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

  // documents: global indices, rising. key: of (seed, stream). Without documents nothing is available.
  Stream(std::vector<uint32_t> documents, const Corpus& corpus, const PlannerConfig& config, uint64_t key);

  // Sequences left below the cap of max_epochs times the stream's positions (unpacked: pieces).
  int64_t available() const;
  PlanSequence draw(
      int domain);  // available() > 0. At the cap the last sequence may be short: the rest is padding.
  int64_t epoch_tokens() const { return epoch_tokens_; }
  size_t num_documents() const { return documents_.size(); }
  const StreamState& state() const { return state_; }
  // False, and nothing happens, for a state that no sequence of draws gives.
  bool restore(const StreamState& state);

 private:
  int64_t document_at(uint64_t epoch, uint64_t cursor) const;
  int64_t positions(int64_t document) const;  // a document of n tokens, bos to eos, has n - 1 to train on

  std::vector<uint32_t> documents_;
  const Corpus& corpus_;  // borrowed; outlives the stream
  PlannerConfig config_;
  uint64_t key_;
  int64_t epoch_tokens_ = 0;
  int64_t cap_ = kUnlimited;  // tokens when packed, else pieces
  StreamState state_;
};

}  // namespace cadre::data
