#include "data/tokenizers/pre_tokenizer.h"

#include <algorithm>

#include "data/tokenizers/normalizer.h"
#include "data/tokenizers/unicode.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// How GPT-2 cuts words (Radford et al. 2019): contractions, letters, digits, the rest, blanks.
constexpr const char* kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const JsonFields& file) {
  if (file.has("pre_tokenizer")) add(file.object("pre_tokenizer"));
}

void PreTokenizer::add(const JsonFields& step) {
  const std::string type = step.text("type");
  // Behind ByteLevel the reference sees letters in place of bytes.
  if (byte_level_) step.refuse("type", "nothing behind ByteLevel");
  if (type == "Sequence") {
    for (const Json& part : step.list("pretokenizers")) add({part, step.where()});
  } else if (type == "Split") {
    add_split(step);
  } else if (type == "Digits") {
    // Any \\p{N} is a digit here.
    steps_.push_back({Kind::kSplit,
                      Regex(step.flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)", step.where()),
                      ""});
  } else if (type == "Metaspace") {
    add_metaspace(step);
  } else if (type == "ByteLevel") {
    add_byte_level(step);
  } else {
    step.refuse("type",
                "one of Split, Digits, Metaspace, ByteLevel, Sequence: other kinds are not supported");
  }
}

void PreTokenizer::add_split(const JsonFields& step) {
  Step made{Kind::kSplit, {}, ""};
  const JsonFields pattern = step.object("pattern");
  if (pattern.has("Regex")) {
    made.pattern.emplace(pattern.text("Regex"), step.where());
  } else {
    made.literal = pattern.text("String");
    if (made.literal.empty()) step.refuse("pattern", "a string that is not empty");
  }
  const std::string behaviour = step.text("behavior");
  if (behaviour == "Removed") {
    made.behaviour = Behaviour::kRemoved;
  } else if (behaviour == "MergedWithPrevious") {
    made.behaviour = Behaviour::kMergedWithPrevious;
  } else if (behaviour == "MergedWithNext") {
    made.behaviour = Behaviour::kMergedWithNext;
  } else if (behaviour != "Isolated") {
    step.refuse("behavior", "one of Isolated, Removed, MergedWithPrevious, MergedWithNext");
  }
  made.invert = step.flag("invert", false);
  steps_.push_back(std::move(made));
}

void PreTokenizer::add_metaspace(const JsonFields& step) {
  Step made{Kind::kMetaspace, {}, step.text("replacement")};
  if (made.literal.empty() ||
      utf8_length(made.literal.data(), made.literal.data() + made.literal.size()) != made.literal.size()) {
    step.refuse("replacement", "one character");
  }
  const std::string scheme = step.has("prepend_scheme") ? step.text("prepend_scheme") : "always";
  if (scheme == "first") {
    made.prepend = Prepend::kFirst;
  } else if (scheme == "always") {
    made.prepend = Prepend::kAlways;
  } else if (scheme != "never") {
    step.refuse("prepend_scheme", "one of always, first, never");
  }
  if (!step.flag("add_prefix_space", true)) made.prepend = Prepend::kNever;
  made.cut = step.flag("split", true);
  steps_.push_back(std::move(made));
}

void PreTokenizer::add_byte_level(const JsonFields& step) {
  if (step.flag("add_prefix_space", true)) steps_.push_back({Kind::kPrefixSpace, {}, ""});
  if (step.flag("use_regex", true)) {
    steps_.push_back({Kind::kSplit, Regex(kGpt2Words, step.where()), ""});
  }
  byte_level_ = true;
}

std::string PreTokenizer::blank_mark() const {
  for (const Step& step : steps_) {
    if (step.kind == Kind::kMetaspace) return step.literal;
  }
  return "";
}

void PreTokenizer::apply(std::string_view piece, bool first, Words& words) const {
  words.text = piece;
  words.spans.clear();
  if (piece.empty()) return;
  words.spans.push_back({0, piece.size()});
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kSplit:
        split(step, words);
        break;
      case Kind::kMetaspace:
        metaspace(step, first, words);
        break;
      case Kind::kPrefixSpace:
        prefix_space(words);
        break;
    }
  }
}

// Appends the matches within one span to words.matches, as offsets in the span.
void PreTokenizer::find_matches(const Step& step, Span part, Words& words) {
  const std::string_view text = words.text.substr(part.begin, part.end - part.begin);
  if (!step.pattern) {
    for (size_t at = 0; (at = text.find(step.literal, at)) != std::string_view::npos;
         at += step.literal.size())
      words.matches.push_back({at, at + step.literal.size()});
    return;
  }
  // Ill-formed bytes belong to no match, and well-formed runs end at them.
  for (size_t at = 0; at < text.size();) {
    std::string_view run = text.substr(at);
    run = run.substr(0, find_invalid_utf8(run));
    if (run.empty()) {
      ++at;
      continue;
    }
    const size_t before = words.matches.size();
    step.pattern->find_all(with_stand_ins(run, words.stand_ins) ? words.stand_ins : run, words.matches);
    for (size_t i = before; i < words.matches.size(); ++i) {
      words.matches[i].begin += at;
      words.matches[i].end += at;
    }
    at += run.size();
  }
}

void PreTokenizer::split(const Step& step, Words& words) {
  auto& cut = words.cut;
  cut.clear();
  for (const Span part : words.spans) {
    const size_t base = cut.size();
    bool after_match = false;  // a match takes no other match, but the text before or behind it
    const auto put = [&](size_t begin, size_t end, bool match) {
      if (begin == end || (step.behaviour == Behaviour::kRemoved && match)) return;
      const bool join = (step.behaviour == Behaviour::kMergedWithPrevious && match && !after_match) ||
                        (step.behaviour == Behaviour::kMergedWithNext && !match && after_match);
      if (join && cut.size() > base) {
        cut.back().end = part.begin + end;
      } else {
        cut.push_back({part.begin + begin, part.begin + end});
      }
      after_match = match;
    };
    words.matches.clear();
    find_matches(step, part, words);
    size_t at = 0;
    for (const Span match : words.matches) {
      put(at, match.begin, step.invert);
      put(match.begin, match.end, !step.invert);
      at = match.end;
    }
    put(at, part.end - part.begin, step.invert);
  }
  std::swap(words.spans, cut);
}

// Blanks become marks, and each mark starts a word.
void PreTokenizer::metaspace(const Step& step, bool first, Words& words) {
  const std::string& mark = step.literal;
  words.next_copy.clear();
  words.cut.clear();
  for (const Span part : words.spans) {
    const std::string_view text = words.text.substr(part.begin, part.end - part.begin);
    const size_t begin = words.next_copy.size();
    const bool wanted =
        step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && first && part.begin == 0);
    if (wanted && !text.starts_with(' ') && !text.starts_with(mark)) words.next_copy += mark;
    replace_all(text, " ", mark, words.next_copy);
    size_t at = begin;
    if (step.cut) {
      for (size_t next; (next = words.next_copy.find(mark, at + 1)) != std::string::npos; at = next)
        words.cut.push_back({at, next});
    }
    words.cut.push_back({at, words.next_copy.size()});
  }
  std::swap(words.copy, words.next_copy);
  words.text = words.copy;
  std::swap(words.spans, words.cut);
}

// A blank before every part that has none.
void PreTokenizer::prefix_space(Words& words) {
  words.next_copy.clear();
  for (Span& part : words.spans) {
    const std::string_view text = words.text.substr(part.begin, part.end - part.begin);
    part.begin = words.next_copy.size();
    if (!text.starts_with(' ')) words.next_copy += ' ';
    words.next_copy += text;
    part.end = words.next_copy.size();
  }
  std::swap(words.copy, words.next_copy);
  words.text = words.copy;
}

}  // namespace cadre::data
