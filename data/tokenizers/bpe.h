// Byte pair encoding (Sennrich et al., ACL 2016): a word is cut into symbols (bytes or characters), then the
// pair of neighbours that stands first in the list of merges is joined, the leftmost first, until no pair is
// in the list.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cadre::data {

// What a tokenizer file says about the model, in its own strings.
struct BpeSource {
  std::unordered_map<std::string, int32_t> ids;
  std::vector<std::pair<std::string, std::string>> merges;  // in order of rank
  std::optional<std::string> unk_token;
  bool byte_level = false;     // symbols are bytes, written in the byte_level.h alphabet
  bool byte_fallback = false;  // characters without an id become the ids of <0x00> to <0xFF>
  bool fuse_unk = false;       // neighbouring unknown characters give one unk
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges
};

class Bpe {
 public:
  // Working memory of one thread; grows to the longest word seen.
  struct Scratch {
    struct Pair {
      uint32_t rank;
      int32_t id;
    };
    struct Candidate {
      uint32_t rank;
      uint32_t position;
      int32_t id;
    };
    std::vector<int32_t> symbols;
    std::vector<Pair> pairs;
    std::vector<uint32_t> next, previous;
    std::vector<Candidate> heap;
  };

  // Throws Error(kData), naming `where`, when the parts do not fit together.
  Bpe(const BpeSource& source, const std::string& where);

  // Appends the ids of one word, in raw bytes. A function of the word alone.
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  struct TextHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Slot {
    uint64_t key = kEmpty;
    Scratch::Pair pair = {};
  };
  static constexpr uint64_t kEmpty = ~uint64_t(0);  // ids are not negative, so no pair has this key
  static constexpr uint32_t kNoRank = ~uint32_t(0);
  static constexpr int32_t kNoId = -1;

  void add_symbols(const BpeSource& source, const std::string& where);
  void add_merges(const BpeSource& source, const std::string& where);
  void add_words(const BpeSource& source);
  Scratch::Pair find_pair(int32_t left, int32_t right) const;
  size_t slot_of(uint64_t key) const { return static_cast<size_t>((key * 0x9e3779b97f4a7c15ull) >> shift_); }
  void cut_into_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;

  bool byte_level_, fuse_unk_, ignore_merges_;
  int32_t unk_ = kNoId;
  bool byte_fallback_ = false;
  bool all_bytes_ = false;                  // every byte is a symbol
  std::array<int32_t, 256> byte_ids_ = {};  // byte level: the byte's symbol; else its fallback
  std::vector<int32_t> character_ids_;      // by code point, up to the last that is a token
  std::vector<Slot> slots_;
  int shift_ = 63;
  std::unordered_map<std::string, int32_t, TextHash, std::equal_to<>> words_;  // only with ignore_merges
};

}  // namespace cadre::data
