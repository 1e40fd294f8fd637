// Training of SentencePiece BPE. The settings keep every character: identity normaliser, no blank in front,
// runs of blanks kept. Sentences are lines with their line ends, so that pieces like ");\n" and "\n\n" can be
// learnt but none reaches into the next line.
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>

#include "data/tokenizers/sentencepiece.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"
#include "parallel/base/log.h"

namespace cadre::data {
namespace {

constexpr int kMetaPieces = 3 + 256;   // unk, bos, eos and the bytes
constexpr size_t kMaxSentence = 4000;  // bytes; longer lines are cut

// Longest prefix of the text that ends after a run of newlines, at most kMaxSentence bytes, cut between
// characters.
size_t sentence_length(std::string_view text) {
  size_t end = text.find('\n');
  if (end == std::string_view::npos) end = text.size();
  while (end < text.size() && text[end] == '\n') ++end;
  if (end <= kMaxSentence) return end;
  end = kMaxSentence;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
  return end == 0 ? kMaxSentence : end;
}

// Characters beyond ASCII that may become pieces; the others are bytes to the model.
using Alphabet = std::set<std::string, std::less<>>;

// Calls take(character) for each well-formed character that SentencePiece will be given when encoding too (so
// not for NUL and U+2581) and skip() for everything else.
template <class Take, class Skip>
void for_each_character(std::string_view text, Take take, Skip skip) {
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const size_t length = utf8_length(p, end);
    const std::string_view character(p, length);
    if (length == 0 || *p == '\0' || character == "\xe2\x96\x81") {
      skip();
    } else {
      take(character);
    }
    p += std::max<size_t>(length, 1);
  }
}

// The most frequent characters beyond ASCII: enough for 99.95% of the sample, but no more than a third of the
// vocabulary (Chinese with a small vocabulary). SentencePiece's own character_coverage refuses values below
// 98%.
Alphabet choose_alphabet(const std::vector<std::string>& texts, int vocab_size) {
  constexpr double kCoverage = 0.9995;
  constexpr int kAsciiPieces = 100;
  std::map<std::string, int64_t, std::less<>> counts;
  int64_t total = 0, covered = 0;
  const auto count = [&](std::string_view character) {
    ++total;
    if (character.size() == 1) {
      ++covered;
    } else if (const auto it = counts.find(character); it != counts.end()) {
      ++it->second;
    } else {
      counts.emplace(character, 1);
    }
  };
  for (const std::string& text : texts) for_each_character(text, count, [] {});
  std::vector<std::pair<int64_t, std::string>> sorted;
  for (const auto& [character, n] : counts) sorted.emplace_back(-n, character);  // ties in code point order
  std::ranges::sort(sorted);
  const size_t room = static_cast<size_t>(std::max(0, (vocab_size - kMetaPieces) / 3 - kAsciiPieces));
  Alphabet alphabet;
  for (const auto& [n, character] : sorted) {
    if (alphabet.size() >= room || static_cast<double>(covered) >= kCoverage * static_cast<double>(total))
      break;
    alphabet.insert(character);
    covered -= n;
  }
  return alphabet;
}

// The texts sentence by sentence; what is outside the alphabet ends a sentence.
class Sentences final : public sentencepiece::SentenceIterator {
 public:
  Sentences(const std::vector<std::string>& texts, const Alphabet& alphabet)
      : texts_(texts), alphabet_(alphabet) {
    Next();
  }
  bool done() const override { return queue_.empty(); }
  const std::string& value() const override { return queue_.front(); }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    if (!queue_.empty()) queue_.pop_front();
    while (queue_.empty() && index_ < texts_.size()) {
      const std::string_view rest = std::string_view(texts_[index_]).substr(offset_);
      if (rest.empty()) {
        ++index_;
        offset_ = 0;
        continue;
      }
      const size_t length = sentence_length(rest);
      split(rest.substr(0, length));
      offset_ += length;
    }
  }

 private:
  void split(std::string_view line) {
    std::string part;
    const auto end_part = [&] {
      if (!part.empty()) queue_.push_back(std::move(part));
      part.clear();
    };
    const auto take = [&](std::string_view character) {
      if (character.size() == 1 || alphabet_.contains(character)) {
        part += character;
      } else {
        end_part();
      }
    };
    for_each_character(line, take, end_part);
    end_part();
  }
  const std::vector<std::string>& texts_;
  const Alphabet& alphabet_;
  size_t index_ = 0, offset_ = 0;
  std::deque<std::string> queue_;  // parts of the present line
};

}  // namespace

std::string train_sentencepiece(const std::vector<std::string>& texts, int vocab_size) {
  constexpr int kMinVocab = 512, kMaxVocab = 1 << 20;
  require(vocab_size >= kMinVocab && vocab_size <= kMaxVocab, ExitCode::kUsage,
          "vocab size {}, expected {} to {} (259 of them are bytes and control pieces)", vocab_size,
          kMinVocab, kMaxVocab);
  const Alphabet alphabet = choose_alphabet(texts, vocab_size);
  Sentences sentences(texts, alphabet);
  require(!sentences.done(), ExitCode::kData, "no text to train a tokenizer on");
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      // SentencePiece takes tabs out while training; runs of them need pieces of their own.
      {"user_defined_symbols", "\t,\t\t,\t\t\t,\t\t\t\t"},
      {"character_coverage", "1.0"},
      {"hard_vocab_limit", "false"},
      {"max_sentence_length", std::to_string(2 * kMaxSentence)},
      {"input_sentence_size", "0"},
      {"shuffle_input_sentence", "false"},
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &sentences, &model);
  require(status.ok(), ExitCode::kData, "SentencePiece cannot train a vocabulary of {} on this text: {}",
          vocab_size, status.ToString());
  return model;
}

}  // namespace cadre::data
