#include "data/tokenizers/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <atomic>
#include <bitset>

#include "data/tokenizers/piece_cache.h"
#include "data/tokenizers/sentencepiece_model.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"
#include "parallel/base/log.h"

namespace cadre::data {
namespace {

constexpr std::string_view kBlank = "\xe2\x96\x81";  // U+2581, how SentencePiece writes a blank
// Text without a safe place to cut is cut here all the same, which bounds time and memory for hostile input.
constexpr size_t kMaxSegment = 16384;

std::string with_blanks(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const bool blank = piece.starts_with(kBlank);
    text.push_back(blank ? ' ' : piece[0]);
    piece.remove_prefix(blank ? kBlank.size() : 1);
  }
  return text;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string model, const std::string& where) : model_(std::move(model)) {
    const auto status = processor_.LoadFromSerializedProto(model_);
    require(status.ok(), ExitCode::kData, "{}: SentencePiece cannot load this model: {}", where,
            status.ToString());
    read_pieces(where);
  }

  std::string kind() const override { return "sentencepiece"; }
  int vocab_size() const override { return static_cast<int>(pieces_.size()); }
  int bos() const override { return bos_; }
  int eos() const override { return eos_; }
  std::string definition() const override { return model_; }
  std::string file_name() const override { return "tokenizer.model"; }

  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    PieceCache& cache = own_cache();
    const char* const end = text.data() + text.size();
    const char* segment = text.data();
    const char* p = segment;
    while (p < end) {
      const size_t length = utf8_length(p, end);
      if (length == 0 || *p == '\0' || std::string_view(p, length) == kBlank) {
        encode_segment({segment, p}, cache, out);
        const char* const next = p + std::max<size_t>(length, 1);
        for (; p < next; ++p) out.push_back(byte_id_[static_cast<uint8_t>(*p)]);
        segment = p;
        continue;
      }
      if (p > segment && (can_cut(p[-1], p[0]) || p - segment + length > kMaxSegment)) {
        encode_segment({segment, p}, cache, out);
        segment = p;
      }
      p += length;
    }
    encode_segment({segment, end}, cache, out);
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      require(id >= 0 && id < vocab_size(), ExitCode::kData, "token {}, expected 0 to {}", id,
              vocab_size() - 1);
      text += pieces_[id];
    }
    return text;
  }

 private:
  void read_pieces(const std::string& where) {
    byte_id_.fill(-1);
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      if (processor_.IsByte(id)) {
        const int byte = std::stoi(piece.substr(3, 2), nullptr, 16);  // "<0x0A>"
        byte_id_[byte] = id;
        pieces_.push_back(std::string(1, static_cast<char>(byte)));
      } else if (processor_.IsControl(id) || processor_.IsUnknown(id)) {
        pieces_.emplace_back();
      } else {
        pieces_.push_back(with_blanks(piece));
        mark_neighbours(pieces_.back());
      }
    }
    require(std::ranges::find(byte_id_, -1) == byte_id_.end(), ExitCode::kData,
            "{}: the model lacks byte pieces, so it cannot hold every text; expected one trained with "
            "byte_fallback. "
            "Leave --tokenizer out to train one here",
            where);
    bos_ = processor_.bos_id();
    eos_ = processor_.eos_id();
    if (bos_ < 0) bos_ = eos_;
    if (eos_ < 0) eos_ = bos_;
    require(bos_ >= 0 && processor_.IsControl(bos_) && processor_.IsControl(eos_), ExitCode::kData,
            "{}: the model has no bos or eos control piece; expected at least one of them", where);
  }

  void mark_neighbours(std::string_view piece) {
    for (size_t i = 1; i < piece.size(); ++i) neighbours_.set(pair_index(piece[i - 1], piece[i]));
  }
  static size_t pair_index(char left, char right) {
    return size_t(static_cast<uint8_t>(left)) << 8 | static_cast<uint8_t>(right);
  }
  // Where no piece has these two bytes side by side, no piece can reach across: the text may be cut there
  // without a change to the result. True for BPE (every merge is a piece) and unigram (every path has a
  // border there).
  bool can_cut(char left, char right) const { return !neighbours_[pair_index(left, right)]; }

  void encode_segment(std::string_view segment, PieceCache& cache, std::vector<int32_t>& out) const {
    if (segment.empty()) return;
    if (segment.size() > PieceCache::kMaxBytes) {
      const std::vector<int> ids = ask_sentencepiece(segment);
      out.insert(out.end(), ids.begin(), ids.end());
      return;
    }
    const PieceCache::Key key = PieceCache::key_of(segment);
    if (const auto known = cache.find(key); !known.empty()) {
      out.insert(out.end(), known.begin(), known.end());
      return;
    }
    std::vector<int> ids;
    if (!shared_.find(key, ids)) {
      ids = ask_sentencepiece(segment);
      shared_.put(key, ids);
    }
    cache.put(key, ids);
    out.insert(out.end(), ids.begin(), ids.end());
  }

  std::vector<int> ask_sentencepiece(std::string_view segment) const {
    std::vector<int> ids;
    const auto status = processor_.Encode(segment, &ids);
    require(status.ok(), ExitCode::kData, "SentencePiece cannot encode {} bytes of text: {}", segment.size(),
            status.ToString());
    return ids;
  }

  // One cache a thread; it belongs to the tokenizer that used it last.
  PieceCache& own_cache() const {
    thread_local std::unique_ptr<PieceCache> cache;
    thread_local uint64_t owner = 0;
    if (owner != number_) {
      cache = std::make_unique<PieceCache>();
      owner = number_;
    }
    return *cache;
  }
  static uint64_t next_number() {
    static std::atomic<uint64_t> last = 0;
    return ++last;
  }

  const uint64_t number_ = next_number();  // tells instances apart, also after one died
  std::string model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> pieces_;  // (vocab) the bytes that an id stands for
  std::array<int32_t, 256> byte_id_ = {};
  std::bitset<65536> neighbours_;  // byte pairs that stand side by side in some piece
  int bos_ = -1, eos_ = -1;
  mutable SharedPieceCache shared_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece(const std::string& model, const std::string& where) {
  IdentityModel identity = with_identity_normalizer(model, where);
  if (!identity.replaced.empty()) {
    spdlog::warn(
        "{}: its normaliser {}, which would lose text; the model is used and saved with the identity instead",
        where, identity.replaced);
  }
  return std::make_unique<SentencePieceTokenizer>(std::move(identity.model), where);
}

}  // namespace cadre::data
