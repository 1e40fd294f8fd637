// What a hostile tokenizer file can do, and the parts that patterns and Unicode play.
#include "data/tokenizers/tokenizer_json.h"

#include <gtest/gtest.h>

#include <limits>

#include "data/tokenizers/regex.h"
#include "data/tokenizers/unicode.h"
#include "parallel/base/rng.h"
#include "tests/data/bpe_fixtures.h"

namespace cadre::data {
namespace {

TEST(Unicode, ComposesOnlyWhatTheReferenceKnows) {
  const auto nfc = [](std::string text) {
    std::string out;
    return normalize_nfc(text, out) ? out : text;
  };
  EXPECT_EQ(nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(nfc("\u212b\u1100\u1161\u11a8"), "\u00c5\uac01");
  EXPECT_EQ(nfc("q\u0307\u0323"), "q\u0323\u0307");
  // U+0898, of Unicode 14, is a starter to the reference: the mark behind it stays there.
  EXPECT_EQ(nfc("\u0628\u0898\u0334"), "\u0628\u0898\u0334");
  EXPECT_EQ(nfc("a\xff"
                "e\u0301\xcc"),
            "a\xff\u00e9\xcc");
  std::string out = "kept";
  EXPECT_FALSE(normalize_nfc("\u00e9 plain", out));
  EXPECT_EQ(out, "kept");
}

TEST(Unicode, StandInsHaveTheClassAndLengthOfWhatTheyReplace) {
  const Regex letters("\\p{L}", "test"), digits("\\p{N}", "test"), blanks("\\s", "test");
  const auto matches = [](const Regex& regex, const std::string& text) {
    std::string copy;
    std::vector<Span> spans;
    EXPECT_TRUE(with_stand_ins(text, copy));
    EXPECT_EQ(copy.size(), text.size());
    regex.find_all(copy, spans);
    return !spans.empty();
  };
  EXPECT_TRUE(matches(letters, "\U00031350"));
  EXPECT_TRUE(matches(letters, "\u1c89"));
  EXPECT_TRUE(matches(digits, "\U00010d40"));
  EXPECT_FALSE(matches(letters, "\U00010d40"));
  EXPECT_FALSE(matches(blanks, "\u180e"));
}

TEST(Regex, RefusesWhatMightMeanSomethingElse) {
  for (const std::string pattern :
       {"a.b", "^a", "a$", "\\w+", "\\bx", "[[:alpha:]]", "[a-z&&[^b]]", "\\p{N}{1,3}+", "(?m:a)", "\\p{Han}",
        "[a", "(a", "\\", "\\h", "a{,3}", "(?P<x>a)", "\\1", "[]a]", "*"}) {
    try {
      const Regex regex(pattern, "file");
      ADD_FAILURE() << pattern << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData) << pattern;
      EXPECT_TRUE(std::string(error.what()).starts_with("file: the pattern '")) << error.what();
    }
  }
}

TEST(Regex, StopsAPatternThatWouldTakeForever) {
  const Regex regex("(?:\\p{L}+)+!|(?:\\p{L}|a)+?(?:\\p{L}+)+1", "file");
  std::vector<Span> spans;
  EXPECT_THROW(regex.find_all(std::string(200, 'a'), spans), Error);
}

// Each takes one piece of a good file away or spoils it; the message names what is wrong.
struct Damage {
  const char* pointer;
  Json value;
  const char* message;
};

TEST(TokenizerJson, EveryMalformedPartIsNamed) {
  const Json good = read_json(kGolden / "qwen_style.json");
  const std::vector<Damage> damages = {
      {"/model", 3, "expected an object"},
      {"/model/type", "Unigram", "BPE"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/end_of_word_suffix", "</w>", "not supported"},
      {"/model/unk_token", 7, "expected a string"},
      {"/model/byte_fallback", "yes", "true or false"},
      {"/model/vocab", Json::array({1}), "expected an object"},
      {"/model/vocab", Json::object(), "no tokens"},
      {"/model/vocab/the", -1, "whole number"},
      {"/model/vocab/the", 4000000000u, "whole number"},
      {"/model/vocab/the", std::numeric_limits<uint64_t>::max(), "whole number"},
      {"/model/vocab/the", 1.5, "whole number"},
      {"/model/vocab/the", 5, "two tokens have the id 5"},
      {"/model/merges", "none", "expected a list"},
      {"/model/merges/0", "ab", "merge 0"},
      {"/model/merges/0", "a b c", "merge 0"},
      {"/model/merges/0", Json::array({"a", 1}), "merge 0"},
      {"/model/merges/0", Json::array({"a", "nowhere"}), "'nowhere'"},
      {"/model/merges/0", Json::array({"%", "%"}), "'%%'"},
      {"/normalizer", Json::object({{"type", "Lowercase"}}), "normalisers"},
      {"/pre_tokenizer", "ByteLevel", "expected an object"},
      {"/pre_tokenizer/pretokenizers/0/pattern", Json::object(), "'String' is missing"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(", "regular expression"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Contiguous", "Isolated"},
      {"/pre_tokenizer/pretokenizers/1/type", "Unknown", "Split"},
      {"/decoder", nullptr, "no decoder"},
      {"/decoder/type", "WordPiece", "ByteLevel"},
      {"/added_tokens", 1, "expected a list"},
      {"/added_tokens/0/content", 1, "expected a string"},
      {"/added_tokens/0/id", 3, "in the vocabulary"},
      {"/added_tokens/1/id", 3, "of another token"},
      {"/added_tokens/1/id", 1 << 30, "whole number"},
      {"/added_tokens/1/lstrip", 1, "true or false"},
      {"/added_tokens/2/content", "<think>", "same text"},
      {"/added_tokens/0/cadre_role", "king", "bos, eos"},
  };
  const Scratch scratch;
  for (const Damage& damage : damages) {
    Json bad = good;
    bad[Json::json_pointer(damage.pointer)] = damage.value;
    try {
      import_tokenizer(scratch.write("tokenizer.json", bad.dump()), {"<|end|>", "<|end|>"});
      ADD_FAILURE() << damage.pointer << " " << damage.value << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData);
      EXPECT_NE(std::string(error.what()).find(damage.message), std::string::npos)
          << damage.pointer << ": " << error.what();
    }
  }
}

TEST(TokenizerJson, DamagedBytesEndInAnErrorOrInATokenizer) {
  const Scratch scratch;
  const std::string good = base::read_file(kGolden / "qwen_style.json", ExitCode::kData);
  const base::Philox random(3);
  int refused = 0;
  for (uint32_t i = 0; i < 400; ++i) {
    std::string bad = good;
    const uint64_t r = random.bits(i, 0);
    if (i % 4 == 0) {
      bad.resize(r % bad.size());
    } else {
      for (uint64_t k = 0; k <= r % 3; ++k)
        bad[random.bits(i, k + 1) % bad.size()] = static_cast<char>(random.bits(i, k + 9));
    }
    try {
      const auto tokenizer = import_tokenizer(scratch.write("tokenizer.json", bad), {"<|end|>", "<|end|>"});
      encode(*tokenizer, "Three experts wait, and 1 does not.");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData);
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
  const std::string deep = std::string(1000000, '[');
  EXPECT_THROW(make_tokenizer_json("{\"a\":" + deep, "deep"), Error);
  EXPECT_THROW(make_tokenizer_json("[]", "list"), Error);
  EXPECT_THROW(make_tokenizer_json(good, "without marks"), Error);
}

}  // namespace
}  // namespace cadre::data
