// Every tokenizer must give back every byte string; SentencePiece must also agree with SentencePiece.
#include "data/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "data/tokenizers/sentencepiece.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/files.h"
#include "parallel/base/rng.h"
#include "tests/temp_folder.h"

namespace cadre::data {
namespace {

using namespace std::string_literals;

// Prose, code and umlauts made from a few hundred words, enough to train a small vocabulary.
std::vector<std::string> sample_texts() {
  const std::vector<std::string> words = {"the",
                                          "model",
                                          "router",
                                          "expert",
                                          "Stra\xc3\x9f"
                                          "e",
                                          "f\xc3\xbcr",
                                          "return",
                                          "int",
                                          "(x == 1);\n",
                                          "while",
                                          "tokens",
                                          "gradient",
                                          "->next",
                                          "\n\n",
                                          "    if",
                                          "\t\tfoo",
                                          "2026",
                                          "\xe4\xbd\xa0\xe5\xa5\xbd"};
  std::vector<std::string> texts;
  const base::Philox random(7);
  for (int document = 0; document < 60; ++document) {
    std::string text;
    for (int i = 0; i < 200; ++i) {
      const uint64_t r = random.bits(i, document);
      text += words[r % words.size()];
      if (r >> 40 & 1) text += char('a' + (r >> 32) % 26);
      text += (r >> 48) % 8 == 0 ? "  " : " ";
    }
    texts.push_back(text);
  }
  return texts;
}

const std::string& trained_model() {
  static const std::string model = train_sentencepiece(sample_texts(), 600);
  return model;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += char(code);
  } else if (code < 0x800) {
    out += {char(0xc0 | code >> 6), char(0x80 | (code & 63))};
  } else if (code < 0x10000) {
    out += {char(0xe0 | code >> 12), char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
  } else {
    out += {char(0xf0 | code >> 18), char(0x80 | (code >> 12 & 63)), char(0x80 | (code >> 6 & 63)),
            char(0x80 | (code & 63))};
  }
}

class EveryTokenizer : public testing::TestWithParam<const char*> {
 protected:
  EveryTokenizer()
      : tokenizer_(GetParam() == std::string("bytes") ? make_byte_tokenizer()
                                                      : make_sentencepiece(trained_model(), "test")) {}
  void expect_round_trip(const std::string& text) const {
    const std::vector<int32_t> ids = encode(*tokenizer_, text);
    for (const int32_t id : ids) {
      ASSERT_NE(id, tokenizer_->bos());
      ASSERT_NE(id, tokenizer_->eos());
      ASSERT_LT(uint32_t(id), uint32_t(tokenizer_->vocab_size()));
    }
    const std::string back = tokenizer_->decode(ids);
    const size_t same =
        std::mismatch(text.begin(), text.begin() + std::min(text.size(), back.size()), back.begin()).first -
        text.begin();
    ASSERT_TRUE(text == back) << "first difference at byte " << same << " of " << text.size();
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(EveryTokenizer, GivesBackEveryByteAndEveryPairOfBytes) {
  for (int a = 0; a < 256; ++a) {
    expect_round_trip(std::string(1, char(a)));
    std::string pairs;
    for (int b = 0; b < 256; ++b) pairs += {char(a), char(b)};
    expect_round_trip(pairs);
  }
}

TEST_P(EveryTokenizer, GivesBackEveryCodePoint) {
  std::string text;
  for (uint32_t code = 0; code < 0x110000; ++code) {
    append_utf8(text, code);  // surrogates included: they are invalid UTF-8 and must survive too
    if (code % 0x1000 == 0xfff) {
      expect_round_trip(text);
      text.clear();
    }
  }
}

TEST_P(EveryTokenizer, GivesBackRunsOfBlanks) {
  for (const char* unit :
       {" ", "\t", "\n", "\r\n", " \t", "\n ", "\xe2\x96\x81", "\xe2\x96\x81 ", "\xc2\xa0", "\xe3\x80\x80"}) {
    std::string run;
    for (int i = 0; i < 70; ++i) {
      run += unit;
      expect_round_trip(run);
      expect_round_trip("a" + run + "b");
    }
  }
}

TEST_P(EveryTokenizer, GivesBackTextThatLooksLikePieces) {
  for (const char* text :
       {"<s>", "</s>", "<unk>", "<0x0A>", " <0x41> ", "<s> <s>", "\xef\xbf\xbd", " \xe2\x81\x87 ",
        "\xef\xbb\xbf"
        "bom",
        "a\xe2\x96", "\xe2\x96\x81\xe2\x96", "e\xcc\x81", "\xef\xac\x81", ""}) {
    expect_round_trip(text);
  }
  expect_round_trip("a\0b\0\0c"s);
  expect_round_trip(std::string(100000, 'x'));  // no safe place to cut
  std::string wide;
  for (int i = 0; i < 20000; ++i) wide += "\xe4\xbd\xa0";
  expect_round_trip(wide);
}

TEST_P(EveryTokenizer, GivesBackRandomBytes) {
  const base::Philox random(11);
  const std::string alphabet = "\0 \t\n\xe2\x96\x81\xf0\x9f\x98\x80\xff<s>ab"s;
  for (uint64_t round = 0; round < 400; ++round) {
    std::string any, hard;
    const uint64_t length = random.bits(0, round) % 300;
    for (uint64_t i = 1; i <= length; ++i) {
      any += char(random.bits(i, round));
      hard += alphabet[(random.bits(i, round) >> 8) % alphabet.size()];
    }
    expect_round_trip(any);
    expect_round_trip(hard);
  }
}

TEST_P(EveryTokenizer, IsTheSameAfterSaveAndLoad) {
  const test::TempFolder folder;
  save_tokenizer(*tokenizer_, folder.path());
  const auto loaded = load_tokenizer(folder / tokenizer_->file_name());
  EXPECT_EQ(loaded->definition(), tokenizer_->definition());
  EXPECT_EQ(loaded->kind(), tokenizer_->kind());
  EXPECT_EQ(loaded->vocab_size(), tokenizer_->vocab_size());
  for (const std::string& text : sample_texts()) EXPECT_EQ(encode(*loaded, text), encode(*tokenizer_, text));
}

TEST_P(EveryTokenizer, EncodesTheSameOnAnyThread) {
  const std::vector<std::string> texts = sample_texts();
  std::vector<std::vector<int32_t>> expected, found(texts.size());
  for (const std::string& text : texts) expected.push_back(encode(*tokenizer_, text));
  std::vector<std::jthread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < texts.size(); i += 4) found[i] = encode(*tokenizer_, texts[i]);
    });
  }
  threads.clear();
  EXPECT_EQ(found, expected);
}

INSTANTIATE_TEST_SUITE_P(Table, EveryTokenizer, testing::Values("bytes", "sentencepiece"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SentencePieceTest, TrainsTheSameModelAgain) {
  EXPECT_EQ(train_sentencepiece(sample_texts(), 600), trained_model());
}

TEST(SentencePieceTest, LearnsRunsOfBlanksAndLineEnds) {
  const auto tokenizer = make_sentencepiece(trained_model(), "test");
  EXPECT_LE(encode(*tokenizer, "\t\t\t\t").size(), 1u);
  EXPECT_LT(encode(*tokenizer, sample_texts()[0]).size(), sample_texts()[0].size() / 2);
}

TEST(SentencePieceTest, TakesAlphabetsLargerThanTheVocabulary) {
  std::string text;
  for (uint32_t code = 0x4e00; code < 0x4e00 + 3000; ++code) append_utf8(text, code);
  const auto tokenizer = make_sentencepiece(train_sentencepiece({text, text}, 700), "test");
  EXPECT_LE(tokenizer->vocab_size(), 700);
  EXPECT_EQ(tokenizer->decode(encode(*tokenizer, text)), text);
}

std::vector<int> encode_with_sentencepiece(const std::string& model, const std::string& text) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  return processor.EncodeAsIds(text);
}

// The cuts must not change the result: the encoding of a text is that of its whole in one call.
TEST(SentencePieceTest, EncodesAsSentencePieceDoesWithTheWholeText) {
  const auto tokenizer = make_sentencepiece(trained_model(), "test");
  for (const std::string& text : sample_texts()) {
    EXPECT_EQ(encode(*tokenizer, text), encode_with_sentencepiece(trained_model(), text));
  }
}

TEST(SentencePieceTest, ReplacesANormaliserThatLosesText) {
  // A normaliser with add_dummy_prefix and remove_extra_whitespaces switched on.
  const std::string spec = "\x1a\x0e\x0a\x08identity\x18\x01\x20\x01"s;
  std::string model = trained_model() + spec;
  const auto tokenizer = make_sentencepiece(model, "test");
  EXPECT_NE(tokenizer->definition(), model);
  for (const char* text : {"the  model", " the", "the ", "  "}) {
    EXPECT_EQ(tokenizer->decode(encode(*tokenizer, text)), text);
  }
}

TEST(SentencePieceTest, RefusesWhatIsNoModel) {
  for (const std::string& bad :
       {std::string("hello"), std::string("\x0a\xff\xff\xff\xff\xff"), trained_model().substr(0, 777)}) {
    try {
      make_sentencepiece(bad, "some.model");
      FAIL() << "accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData);
      EXPECT_NE(std::string(e.what()).find("some.model"), std::string::npos) << e.what();
    }
  }
}

TEST(Utf8Test, KnowsWellFormedFromIllFormed) {
  const auto valid = [](std::string_view text) { return find_invalid_utf8(text) == text.size(); };
  for (const char* text : {"", "a", "\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                           "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(valid(text)) << text;
  for (const char* text : {"\x80", "\xc1\x80", "\xc2", "\xe0\x9f\x80", "\xed\xa0\x80", "\xf0\x8f\x80\x80",
                           "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xe2\x96"})
    EXPECT_FALSE(valid(text));
  EXPECT_EQ(find_invalid_utf8("ab\xff"
                              "c"),
            2u);
}

}  // namespace
}  // namespace cadre::data
