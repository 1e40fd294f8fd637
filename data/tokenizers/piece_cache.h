// Remembers how short segments of text were cut into tokens. Text repeats its words, and a look-up here costs
// some nanoseconds where SentencePiece takes a microsecond. Direct-mapped and of fixed size: a collision
// forgets, so memory is bounded and the result never depends on what was seen before.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/base/rng.h"

namespace cadre::data {

// For one thread.
class PieceCache {
 public:
  // Of a segment and of its tokens; longer ones are not kept.
  static constexpr size_t kMaxBytes = 24, kMaxTokens = 9;
  using Key =
      std::array<uint64_t, 3>;  // the segment's bytes, padded with NUL; segments hold no NUL themselves

  explicit PieceCache(size_t slots = kSlots) : slots_(slots) {}

  // segment: at most kMaxBytes.
  static Key key_of(std::string_view segment) {
    Key key = {};
    std::memcpy(key.data(), segment.data(), segment.size());
    return key;
  }
  static uint64_t hash_of(const Key& key) {
    return base::mix((key[0] * 0x9e3779b97f4a7c15ull) ^ (key[1] * 0xbf58476d1ce4e5b9ull + key[2]));
  }
  // Tokens of the segment, or none when it is not here. Valid until the next put().
  std::span<const int32_t> find(const Key& key) const {
    const Slot& slot = slots_[hash_of(key) % slots_.size()];
    // Not ==, which calls memcmp.
    const bool same = ((slot.key[0] ^ key[0]) | (slot.key[1] ^ key[1]) | (slot.key[2] ^ key[2])) == 0;
    return same ? std::span(slot.tokens).first(slot.count) : std::span<const int32_t>();
  }
  // In place of what its slot held.
  void put(const Key& key, std::span<const int> tokens) {
    if (tokens.size() > kMaxTokens) return;
    Slot& slot = slots_[hash_of(key) % slots_.size()];
    slot.key = key;
    slot.count = static_cast<uint32_t>(tokens.size());
    std::copy(tokens.begin(), tokens.end(), slot.tokens.begin());
  }

 private:
  static constexpr size_t kSlots = size_t(1) << 15;  // 2 MiB
  struct Slot {
    Key key = {};
    uint32_t count = 0;
    std::array<int32_t, kMaxTokens> tokens = {};
  };
  static_assert(sizeof(Slot) == 64, "a slot is one cache line");

  std::vector<Slot> slots_;
};

// The second level, shared by all threads behind their own caches: what one thread asked SentencePiece, no other asks
// again, so that two threads do half the work each and not more. Striped, so threads rarely meet at a lock.
class SharedPieceCache {
 public:
  SharedPieceCache() : stripes_(kStripes) {}
  // Appends the segment's tokens to out; false when it is not here.
  bool find(const PieceCache::Key& key, std::vector<int>& out) {
    Stripe& stripe = stripe_of(key);
    const std::lock_guard lock(stripe.mutex);
    const std::span<const int32_t> known = stripe.cache.find(key);
    out.insert(out.end(), known.begin(), known.end());
    return !known.empty();
  }
  void put(const PieceCache::Key& key, std::span<const int> tokens) {
    Stripe& stripe = stripe_of(key);
    const std::lock_guard lock(stripe.mutex);
    stripe.cache.put(key, tokens);
  }

 private:
  static constexpr size_t kStripes = 64, kSlotsOfStripe = size_t(1) << 12;  // 16 MiB in all
  struct Stripe {
    std::mutex mutex;
    PieceCache cache{kSlotsOfStripe};
  };
  // The high bits choose the stripe, the low ones the slot in it.
  Stripe& stripe_of(const PieceCache::Key& key) { return stripes_[PieceCache::hash_of(key) >> 58]; }
  std::vector<Stripe> stripes_;
};

}  // namespace cadre::data
