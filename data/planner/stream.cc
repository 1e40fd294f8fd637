// Drawing sequences from one stream.
#include "data/planner/stream.h"

#include <algorithm>
#include <cmath>

#include "data/planner/permutation.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {
int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
}  // namespace

Stream::Stream(std::vector<uint32_t> documents, const Corpus& corpus, const PlannerConfig& config,
               uint64_t key)
    : documents_(std::move(documents)), corpus_(corpus), config_(config), key_(key) {
  documents_.shrink_to_fit();
  int64_t pieces = 0;
  for (const uint32_t d : documents_) {
    epoch_tokens_ += positions(d);
    pieces += divide_up(positions(d), config_.seq_len);
  }
  // Rounded up, so that caps of E epochs always leave room for E times the corpus.
  if (config_.max_epochs > 0) {
    cap_ =
        static_cast<int64_t>(std::ceil(config_.max_epochs * double(config_.pack ? epoch_tokens_ : pieces)));
  }
}

int64_t Stream::positions(int64_t document) const {
  return corpus_.document(document).length - 1;
}

int64_t Stream::document_at(uint64_t epoch, uint64_t cursor) const {
  return documents_[Permutation(documents_.size(), base::mix(key_, epoch))(cursor)];
}

int64_t Stream::available() const {
  if (documents_.empty()) return 0;
  if (cap_ == kUnlimited) return kUnlimited;
  return config_.pack ? divide_up(cap_ - state_.tokens, config_.seq_len) : cap_ - state_.sequences;
}

PlanSequence Stream::draw(int domain) {
  PlanSequence sequence{domain, {}};
  int64_t room = config_.seq_len;
  if (config_.pack && cap_ != kUnlimited) room = std::min(room, cap_ - state_.tokens);
  while (room > 0) {
    const int64_t document = document_at(state_.epoch, state_.cursor);
    const int64_t left = positions(document) - state_.offset, count = std::min(room, left);
    // A conversation that is cut would be answered without its question; one that fits nowhere has to be.
    if (config_.whole && count < left && !sequence.segments.empty()) break;
    sequence.segments.push_back({document, state_.offset, count});
    state_.tokens += count;
    state_.offset += count;
    if (count == left) {
      state_.offset = 0;
      if (++state_.cursor == documents_.size()) state_.cursor = 0, ++state_.epoch;
    }
    room = config_.pack ? room - count : 0;
  }
  ++state_.sequences;
  return sequence;
}

bool Stream::restore(const StreamState& state) {
  const bool counts = state.tokens >= 0 && state.sequences >= 0 && state.offset >= 0;
  if (documents_.empty()) {
    return counts && state.epoch == 0 && state.cursor == 0 && state.offset == 0 && state.tokens == 0 &&
           state.sequences == 0;
  }
  if (!counts || state.cursor >= documents_.size()) return false;
  if (state.offset >= positions(document_at(state.epoch, state.cursor))) return false;
  if (static_cast<uint64_t>(state.tokens / epoch_tokens_) != state.epoch) return false;
  state_ = state;
  return true;
}

}  // namespace cadre::data
