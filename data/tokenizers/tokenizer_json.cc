#include "data/tokenizers/tokenizer_json.h"

#include <atomic>
#include <unordered_map>
#include <utility>

#include "data/tokenizers/added_tokens.h"
#include "data/tokenizers/bpe.h"
#include "data/tokenizers/normalizer.h"
#include "data/tokenizers/piece_cache.h"
#include "data/tokenizers/pre_tokenizer.h"
#include "data/tokenizers/safe_cuts.h"
#include "data/tokenizers/token_decoder.h"
#include "data/tokenizers/tokenizer_file.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// What one thread works with, so that no word needs an allocation. It belongs to the tokenizer that used it
// last.
struct Workspace {
  uint64_t owner = 0;
  std::unique_ptr<PieceCache> cache;
  Bpe::Scratch bpe;
  PreTokenizer::Words words;
  std::vector<AddedTokens::Part> parts, inner_parts;
  std::string one, two;
};

AddedTokens choose_added(const std::vector<AddedToken>& tokens, const Normalizer* normalizer,
                         const std::string& where) {
  std::vector<AddedToken> chosen;
  std::vector<std::string> forms;
  std::string one, two;
  for (const AddedToken& token : tokens) {
    if (token.content.empty() || token.normalized != (normalizer != nullptr)) continue;
    chosen.push_back(token);
    forms.emplace_back(normalizer ? normalizer->apply(token.content, one, two) : token.content);
  }
  return {std::move(chosen), forms, where};
}

class JsonTokenizer final : public BpeTokenizer {
 public:
  JsonTokenizer(const JsonFields& file, std::string definition)
      : JsonTokenizer(file, PreTokenizer(file), std::move(definition)) {}

  std::string kind() const override { return "tokenizer_json"; }
  int vocab_size() const override { return static_cast<int>(tokens_.size()); }
  int bos() const override { return roles_.bos; }
  int eos() const override { return roles_.eos; }
  std::string definition() const override { return definition_; }
  std::string file_name() const override { return "tokenizer.json"; }

  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    encode_text(text, true, out);
  }
  void encode_with_specials(std::string_view text, std::vector<int32_t>& out) const override {
    encode_text(text, false, out);
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    bool first = true;
    for (const int32_t id : ids) {
      check_id(id);
      if (special_[id]) continue;
      text += first ? decoder_.bytes_of(tokens_[id], true) : pieces_[id];
      first = false;
    }
    return std::string(decoder_.strip(text));
  }

  int id_of(const std::string& token) const override {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }

  std::string_view bytes_of(int32_t id) const override {
    check_id(id);
    return pieces_[id];
  }

 private:
  void check_id(int32_t id) const {
    require(id >= 0 && id < vocab_size(), ExitCode::kData, "token {}, expected 0 to {}", id,
            vocab_size() - 1);
  }

  JsonTokenizer(const JsonFields& file, PreTokenizer pre_tokenizer, std::string definition)
      : JsonTokenizer(file, read_bpe(file, pre_tokenizer.byte_level()), std::move(pre_tokenizer),
                      std::move(definition)) {}

  JsonTokenizer(const JsonFields& file, BpeSource source, PreTokenizer pre_tokenizer, std::string definition)
      : JsonTokenizer(file, source, read_added_tokens(file, source), std::move(pre_tokenizer),
                      std::move(definition)) {}

  JsonTokenizer(const JsonFields& file, const BpeSource& source, const std::vector<AddedToken>& added,
                PreTokenizer pre_tokenizer, std::string definition)
      : definition_(std::move(definition)),
        normalizer_(file),
        pre_tokenizer_(std::move(pre_tokenizer)),
        decoder_(file),
        raw_added_(choose_added(added, nullptr, file.where())),
        normalized_added_(choose_added(added, &normalizer_, file.where())),
        bpe_(source, file.where()),
        cuts_(source, blank_mark()),
        roles_(read_roles(file)),
        ids_(source.ids) {
    require(roles_.bos >= 0 && roles_.eos >= 0, ExitCode::kData,
            "{}: no token is marked as the start or the end of documents; import the file together with its "
            "tokenizer_config.json",
            file.where());
    add_tokens(added);
  }

  std::string blank_mark() const {
    const std::string mark = pre_tokenizer_.blank_mark();
    return mark.empty() ? normalizer_.blank_mark() : mark;
  }

  void add_tokens(const std::vector<AddedToken>& added) {
    std::string one, two;
    int32_t last = 0;
    for (const auto& [_, id] : ids_) last = std::max(last, id);
    for (const AddedToken& token : added) last = std::max(last, token.id);
    tokens_.resize(static_cast<size_t>(last) + 1);
    special_.resize(tokens_.size());
    for (const auto& [token, id] : ids_) tokens_[id] = token;
    for (const AddedToken& token : added) {
      // As in the reference, a token that is looked for in normalised text also decodes from its normalised
      // form.
      tokens_[token.id] = token.normalized ? normalizer_.apply(token.content, one, two) : token.content;
      special_[token.id] = token.special;
      ids_[token.content] = token.id;
    }
    for (const std::string& token : tokens_) pieces_.push_back(decoder_.bytes_of(token, false));
  }

  void encode_text(std::string_view text, bool specials_as_text, std::vector<int32_t>& out) const {
    require(text.size() < size_t(1) << 31, ExitCode::kData, "a text of {} bytes, expected less than 2 GiB",
            text.size());
    Workspace& work = own_workspace();
    work.parts.clear();
    raw_added_.split(text, specials_as_text, work.parts);
    for (const auto& part : work.parts) {
      if (part.id >= 0) {
        out.push_back(part.id);
        continue;
      }
      const std::string_view piece = normalizer_.apply(
          text.substr(part.span.begin, part.span.end - part.span.begin), work.one, work.two);
      work.inner_parts.clear();
      normalized_added_.split(piece, specials_as_text, work.inner_parts);
      for (const auto& inner : work.inner_parts) {
        if (inner.id >= 0) {
          out.push_back(inner.id);
        } else {
          encode_piece(piece.substr(inner.span.begin, inner.span.end - inner.span.begin),
                       part.span.begin == 0 && inner.span.begin == 0, work, out);
        }
      }
    }
  }

  void encode_piece(std::string_view piece, bool first, Workspace& work, std::vector<int32_t>& out) const {
    pre_tokenizer_.apply(piece, first, work.words);
    for (const Span span : work.words.spans) {
      std::string_view word = work.words.text.substr(span.begin, span.end - span.begin);
      while (!word.empty()) {
        const size_t length = cuts_.first_segment(word);
        encode_segment(word.substr(0, length), work, out);
        word.remove_prefix(length);
      }
    }
  }

  void encode_segment(std::string_view segment, Workspace& work, std::vector<int32_t>& out) const {
    // The cache pads with NUL, so it cannot tell a NUL at the end.
    if (segment.size() > PieceCache::kMaxBytes || segment.back() == '\0') {
      bpe_.encode_word(segment, work.bpe, out);
      return;
    }
    const PieceCache::Key key = PieceCache::key_of(segment);
    if (const auto known = work.cache->find(key); !known.empty()) {
      out.insert(out.end(), known.begin(), known.end());
      return;
    }
    const size_t before = out.size();
    bpe_.encode_word(segment, work.bpe, out);
    work.cache->put(key, std::span(out).subspan(before));
  }

  Workspace& own_workspace() const {
    thread_local Workspace workspace;
    if (workspace.owner != number_) {
      workspace.cache = std::make_unique<PieceCache>();
      workspace.owner = number_;
    }
    return workspace;
  }
  static uint64_t next_number() {
    static std::atomic<uint64_t> last = 0;
    return ++last;
  }

  const uint64_t number_ = next_number();  // tells instances apart, also after one died
  std::string definition_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  TokenDecoder decoder_;
  AddedTokens raw_added_, normalized_added_;
  Bpe bpe_;
  SafeCuts cuts_;
  Roles roles_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<std::string> tokens_;  // (vocab) as the decoder reads them
  std::vector<std::string> pieces_;  // (vocab) the bytes that an id stands for, unless it is the first
  std::vector<bool> special_;        // (vocab)
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer_json(const std::string& definition, const std::string& where) {
  const Json document = parse_json(definition, where);
  return std::make_unique<JsonTokenizer>(JsonFields(document, where), definition);
}

std::unique_ptr<BpeTokenizer> make_bpe_tokenizer(const Json& document, const std::string& where) {
  return std::make_unique<JsonTokenizer>(JsonFields(document, where), document.dump());
}

}  // namespace cadre::data
