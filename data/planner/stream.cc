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
    : pieces_(std::move(documents), corpus, config), config_(config), key_(key) {
  // Rounded up, so that caps of E epochs always leave room for E times the corpus.
  if (config_.max_epochs > 0) {
    cap_ = static_cast<int64_t>(
        std::ceil(config_.max_epochs * double(config_.pack ? pieces_.tokens() : pieces_.sequences())));
  }
}

PlanSegment Stream::rest_at(uint64_t epoch, uint64_t cursor) const {
  return pieces_.rest(Permutation(pieces_.num_rests(), base::mix(key_, epoch))(cursor));
}

PlanSegment Stream::full_at(uint64_t epoch, uint64_t cursor) const {
  const uint64_t key = base::mix(base::mix(key_, base::hash_name("full")), epoch);
  return pieces_.full(Permutation(pieces_.num_full(), key)(cursor));
}

int64_t Stream::available() const {
  if (pieces_.tokens() == 0) return 0;
  if (cap_ == kUnlimited) return kUnlimited;
  return config_.pack ? divide_up(cap_ - state_.tokens, config_.seq_len) : cap_ - state_.sequences;
}

int64_t Stream::rest_tokens_drawn(const StreamState& state) const {
  return state.tokens - static_cast<int64_t>(state.epoch) * pieces_.tokens() -
         static_cast<int64_t>(state.full) * config_.seq_len;
}

// A sequence of rests is due when, with it, they are still not ahead of the full pieces.
bool Stream::full_is_next() const {
  const uint64_t full = pieces_.num_full();
  if (state_.full == full) return false;
  const int64_t drawn = config_.pack ? rest_tokens_drawn(state_) : static_cast<int64_t>(state_.cursor);
  const int64_t all = config_.pack ? pieces_.rest_tokens() : static_cast<int64_t>(pieces_.num_rests());
  const int64_t after = drawn + (config_.pack ? config_.seq_len : 1);
  return __int128(after) * __int128(full) > __int128(all) * __int128(state_.full);
}

void Stream::add(const PlanSegment& segment, PlanSequence& sequence) {
  sequence.segments.push_back(segment);
  state_.tokens += segment.count;
}

void Stream::end_epoch_if_used_up() {
  if (state_.cursor < pieces_.num_rests() || state_.full < pieces_.num_full()) return;
  state_.cursor = state_.full = 0;
  ++state_.epoch;
}

PlanSequence Stream::draw(int domain) {
  PlanSequence sequence{domain, {}};
  int64_t room = config_.seq_len;
  if (config_.pack && cap_ != kUnlimited) room = std::min(room, cap_ - state_.tokens);
  if (full_is_next()) {
    const PlanSegment piece = full_at(state_.epoch, state_.full);
    add({piece.document, piece.begin, room},
        sequence);  // less than all of it only where the cap ends the stream
    if (room == piece.count) ++state_.full;
    end_epoch_if_used_up();
    room = 0;
  }
  while (room > 0 && state_.cursor < pieces_.num_rests()) {
    const PlanSegment rest = rest_at(state_.epoch, state_.cursor);
    const int64_t left = rest.count - state_.offset, count = std::min(room, left);
    // A conversation that is cut would be answered without its question; one that fits nowhere has to be.
    if (config_.whole && count < left && !sequence.segments.empty()) break;
    add({rest.document, rest.begin + state_.offset, count}, sequence);
    state_.offset += count;
    if (count == left) {
      state_.offset = 0;
      ++state_.cursor;
      end_epoch_if_used_up();
    }
    room = config_.pack ? room - count : 0;
  }
  ++state_.sequences;
  return sequence;
}

bool Stream::restore(const StreamState& state) {
  const bool counts = state.tokens >= 0 && state.sequences >= 0 && state.offset >= 0;
  if (pieces_.tokens() == 0) {
    return counts && state.epoch == 0 && state.cursor == 0 && state.offset == 0 && state.tokens == 0 &&
           state.sequences == 0 && state.full == 0;
  }
  if (!counts || state.cursor > pieces_.num_rests() || state.full > pieces_.num_full()) return false;
  const bool no_rests = state.cursor == pieces_.num_rests();
  if (no_rests && state.full == pieces_.num_full()) return false;  // the epoch would be over
  if (state.offset >= (no_rests ? 1 : rest_at(state.epoch, state.cursor).count)) return false;
  if (static_cast<uint64_t>(state.tokens / pieces_.tokens()) != state.epoch) return false;
  // At the cap a part of a full piece may have been drawn.
  const int64_t drawn = rest_tokens_drawn(state), part = state.tokens == cap_ ? config_.seq_len : 0;
  if (drawn < state.offset || drawn > pieces_.rest_tokens() + part) return false;
  state_ = state;
  return true;
}

}  // namespace cadre::data
