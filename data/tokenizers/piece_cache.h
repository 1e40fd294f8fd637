// Remembers how short segments of text were cut into tokens. Text repeats its words, and a look-up here costs
// some nanoseconds where SentencePiece takes a microsecond. Direct-mapped and of fixed size: a collision
// forgets, so memory is bounded and the result never depends on what was seen before.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/base/rng.h"

namespace cadre::data {

class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 24, kMaxTokens = 9;
  using Key =
      std::array<uint64_t, 3>;  // the segment's bytes, padded with NUL; segments hold no NUL themselves

  PieceCache() : slots_(kSlots) {}

  static Key key_of(std::string_view segment) {
    Key key = {};
    std::memcpy(key.data(), segment.data(), segment.size());
    return key;
  }
  // Tokens of the segment, or none when it is not here.
  std::span<const int32_t> find(const Key& key) const {
    const Slot& slot = slots_[index(key)];
    // Not ==, which calls memcmp.
    const bool same = ((slot.key[0] ^ key[0]) | (slot.key[1] ^ key[1]) | (slot.key[2] ^ key[2])) == 0;
    return same ? std::span(slot.tokens).first(slot.count) : std::span<const int32_t>();
  }
  void put(const Key& key, std::span<const int> tokens) {
    if (tokens.size() > kMaxTokens) return;
    Slot& slot = slots_[index(key)];
    slot.key = key;
    slot.count = static_cast<uint32_t>(tokens.size());
    std::copy(tokens.begin(), tokens.end(), slot.tokens.begin());
  }

 private:
  static constexpr size_t kSlots = size_t(1) << 15;  // 2 MiB a thread
  struct Slot {
    Key key = {};
    uint32_t count = 0;
    std::array<int32_t, kMaxTokens> tokens = {};
  };
  static_assert(sizeof(Slot) == 64, "a slot is one cache line");

  static size_t index(const Key& key) {
    const uint64_t h = (key[0] * 0x9e3779b97f4a7c15ull) ^ (key[1] * 0xbf58476d1ce4e5b9ull + key[2]);
    return static_cast<size_t>(base::mix(h) >> 49);
  }
  std::vector<Slot> slots_;
};

}  // namespace cadre::data
