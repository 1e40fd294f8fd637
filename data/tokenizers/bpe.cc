#include "data/tokenizers/bpe.h"

#include <algorithm>
#include <bit>

#include "data/tokenizers/byte_level.h"
#include "data/tokenizers/unicode.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// Up to this many symbols, looking for the best pair in a row of them is faster than keeping a heap.
constexpr size_t kShortWord = 64;

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

int32_t id_or(const BpeSource& source, const std::string& token, int32_t otherwise) {
  const auto found = source.ids.find(token);
  return found == source.ids.end() ? otherwise : found->second;
}

int32_t merge_id(const BpeSource& source, const std::string& token, size_t rank, const std::string& where) {
  const int32_t id = id_or(source, token, -1);
  require(id >= 0, ExitCode::kData, "{}: merge {} needs the token '{}', which the vocabulary lacks", where,
          rank, token);
  return id;
}

}  // namespace

Bpe::Bpe(const BpeSource& source, const std::string& where)
    : byte_level_(source.byte_level), fuse_unk_(source.fuse_unk), ignore_merges_(source.ignore_merges) {
  add_symbols(source, where);
  if (source.unk_token && !(byte_level_ && all_bytes_)) {
    unk_ = id_or(source, *source.unk_token, kNoId);
    require(unk_ >= 0, ExitCode::kData, "{}: unk_token '{}' is not in the vocabulary", where,
            *source.unk_token);
  }
  add_merges(source, where);
  if (ignore_merges_) add_words(source);
}

void Bpe::add_symbols(const BpeSource& source, const std::string& where) {
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string name;
    if (byte_level_) {
      append_utf8(byte_characters()[byte], name);
    } else {
      name = fmt::format("<0x{:02X}>", byte);
    }
    byte_ids_[byte] = id_or(source, name, kNoId);
  }
  all_bytes_ = std::ranges::find(byte_ids_, kNoId) == byte_ids_.end();
  byte_fallback_ = source.byte_fallback && !byte_level_;
  require(!source.byte_fallback || !byte_level_ || all_bytes_, ExitCode::kData,
          "{}: byte_fallback with a byte-level alphabet that lacks bytes; expected all 256, or no fallback",
          where);
  if (byte_level_) return;
  for (const auto& [token, id] : source.ids) {
    if (token.empty() || utf8_length(token.data(), token.data() + token.size()) != token.size()) continue;
    const uint32_t c = code_point(token.data(), token.size());
    if (c >= character_ids_.size()) character_ids_.resize(c + 1, kNoId);
    character_ids_[c] = id;
  }
}

void Bpe::add_merges(const BpeSource& source, const std::string& where) {
  const size_t size = std::bit_ceil(std::max<size_t>(2 * source.merges.size(), 16));
  slots_.resize(size);
  shift_ = 64 - std::countr_zero(size);
  for (size_t rank = 0; rank < source.merges.size(); ++rank) {
    const auto& [left, right] = source.merges[rank];
    const uint64_t key = pair_key(merge_id(source, left, rank, where), merge_id(source, right, rank, where));
    size_t at = slot_of(key);
    while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & (size - 1);
    slots_[at] = {key, {static_cast<uint32_t>(rank), merge_id(source, left + right, rank, where)}};
  }
}

void Bpe::add_words(const BpeSource& source) {
  std::string bytes;
  for (const auto& [token, id] : source.ids) {
    if (byte_level_ && !bytes_of_token(token, bytes)) continue;
    words_.emplace(byte_level_ ? bytes : token, id);
  }
}

Bpe::Scratch::Pair Bpe::find_pair(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  for (size_t at = slot_of(key);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].key == key) return slots_[at].pair;
    if (slots_[at].key == kEmpty) return {kNoRank, kNoId};
  }
}

void Bpe::cut_into_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  symbols.clear();
  if (byte_level_ && all_bytes_) {
    symbols.resize(word.size());
    for (size_t i = 0; i < word.size(); ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(word[i])];
    return;
  }
  // As in the reference, an unk waits for the next known symbol, but not for fallback bytes.
  bool unk_waits = false;
  const char* const end = word.data() + word.size();
  for (const char* p = word.data(); p < end;) {
    const size_t well_formed = byte_level_ ? 1 : utf8_length(p, end);
    const size_t length = std::max<size_t>(well_formed, 1);
    int32_t id = kNoId;
    if (byte_level_) {
      id = byte_ids_[static_cast<uint8_t>(*p)];
    } else if (well_formed > 0) {
      const uint32_t c = code_point(p, length);
      if (c < character_ids_.size()) id = character_ids_[c];
    }
    if (id != kNoId) {
      if (unk_waits) symbols.push_back(unk_);
      unk_waits = false;
      symbols.push_back(id);
    } else if (byte_fallback_ && std::all_of(p, p + length, [&](char c) {
                 return byte_ids_[static_cast<uint8_t>(c)] != kNoId;
               })) {
      for (size_t i = 0; i < length; ++i) symbols.push_back(byte_ids_[static_cast<uint8_t>(p[i])]);
    } else if (unk_ != kNoId) {
      if (unk_waits && !fuse_unk_) symbols.push_back(unk_);
      unk_waits = true;
    }
    p += length;
  }
  if (unk_waits) symbols.push_back(unk_);
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    if (const auto found = words_.find(word); found != words_.end()) {
      out.push_back(found->second);
      return;
    }
  }
  cut_into_symbols(word, scratch.symbols);
  if (scratch.symbols.size() <= kShortWord) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  out.insert(out.end(), scratch.symbols.begin(), scratch.symbols.end());
}

void Bpe::merge_short(Scratch& scratch) const {
  auto& ids = scratch.symbols;
  auto& pairs = scratch.pairs;  // pairs[i]: what joining ids[i] and ids[i + 1] would give
  size_t count = ids.size();
  if (count < 2) return;
  pairs.resize(count);
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = find_pair(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    ids[best] = pairs[best].id;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      ids[i] = ids[i + 1];
      pairs[i] = pairs[i + 1];
    }
    if (best + 1 < count) pairs[best] = find_pair(ids[best], ids[best + 1]);
    if (best > 0) pairs[best - 1] = find_pair(ids[best - 1], ids[best]);
  }
  ids.resize(count);
}

// The same result in n log n steps. Symbols are a list; candidates in the heap that no longer hold are passed
// over.
void Bpe::merge_long(Scratch& scratch) const {
  auto& ids = scratch.symbols;
  auto& heap = scratch.heap;
  const auto count = static_cast<uint32_t>(ids.size());
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto propose = [&](uint32_t left, uint32_t right) {
    const Scratch::Pair pair = find_pair(ids[left], ids[right]);
    if (pair.rank == kNoRank) return false;
    heap.push_back({pair.rank, left, pair.id});
    return true;
  };
  scratch.next.resize(count);
  scratch.previous.resize(count);
  heap.clear();
  for (uint32_t i = 0; i < count; ++i) {
    scratch.next[i] = i + 1;
    scratch.previous[i] = i - 1;  // of the first: not read
    if (i + 1 < count) propose(i, i + 1);
  }
  std::ranges::make_heap(heap, later);
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    const uint32_t left = best.position;
    if (ids[left] == kNoId || scratch.next[left] >= count) continue;
    const uint32_t right = scratch.next[left];
    const Scratch::Pair now = find_pair(ids[left], ids[right]);
    if (now.rank == kNoRank || now.id != best.id) continue;
    ids[left] = best.id;
    ids[right] = kNoId;
    const uint32_t after = scratch.next[right];
    scratch.next[left] = after;
    if (after < count) {
      scratch.previous[after] = left;
      if (propose(left, after)) std::ranges::push_heap(heap, later);
    }
    if (left > 0 && propose(scratch.previous[left], left)) std::ranges::push_heap(heap, later);
  }
  std::erase(ids, kNoId);
}

}  // namespace cadre::data
