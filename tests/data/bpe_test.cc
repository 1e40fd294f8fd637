// BPE tokenizers: ids against those of the reference library (tests/golden/make_tokenizers.py), and what
// holds for any text.
#include "data/tokenizers/bpe.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "parallel/base/rng.h"
#include "tests/data/bpe_fixtures.h"

namespace cadre::data {
namespace {

const std::vector<std::string> kTokenizers = {
    "gpt2_style",      "qwen_style",       "llama3_style",  "llama2_style", "llama2_words",
    "mistral_style",   "metaspace_always", "metaspace_unk", "prefix_space", "digits_removed",
    "merged_previous", "merged_next",      "inverted"};

std::unique_ptr<BpeTokenizer> load(const std::string& name) {
  const bool sentencepiece =
      name.starts_with("llama2") || name.starts_with("m") != name.starts_with("merged");
  return import_tokenizer(kGolden / (name + ".json"),
                          sentencepiece ? DocumentMarks{} : DocumentMarks{"<|end|>", "<|end|>"});
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, IdsAndTextAgreeWithTheReference) {
  const auto tokenizer = load(GetParam());
  size_t compared = 0;
  for (const Json& c : read_json(kGolden / (GetParam() + ".cases.json"))) {
    const auto text = c["text"].get<std::string>();
    const auto ids = c["ids"].get<Ids>();
    ASSERT_EQ(encode_with_specials(*tokenizer, text), ids) << c["text"];
    ASSERT_EQ(encode(*tokenizer, text), c.value("ids_of_document", ids)) << c["text"];
    const auto decoded = c["decoded"].get<std::string>();
    // The reference writes U+FFFD for bytes that are no text; here they come back as they were.
    if (decoded.find("\xef\xbf\xbd") == std::string::npos) {
      ASSERT_EQ(tokenizer->decode(ids), decoded) << c["text"];
      ++compared;
    }
  }
  EXPECT_GT(compared, 100u);
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Golden, testing::ValuesIn(kTokenizers),
                         [](const auto& i) { return i.param; });

TEST(ImportTokenizer, ReadsTheTwoFilesOfGpt2) {
  const auto pair = import_tokenizer(kGolden / "gpt2_files");
  const auto single = load("gpt2_style");
  EXPECT_EQ(pair->bos(), pair->id_of("<|endoftext|>"));
  EXPECT_EQ(pair->eos(), pair->bos());
  for (const Json& c : read_json(kGolden / "gpt2_style.cases.json")) {
    const auto text = c["text"].get<std::string>();
    ASSERT_EQ(encode(*pair, text), encode(*single, text)) << c["text"];
  }
}

TEST(ImportTokenizer, TakesTheMarksFromTheConfigurationBesideIt) {
  const Scratch scratch;
  fs::copy_file(kGolden / "qwen_style.json", scratch.path / "tokenizer.json");
  scratch.write("tokenizer_config.json", R"({"bos_token": null, "eos_token": {"content": "<|im|>"}})");
  const auto tokenizer = import_tokenizer(scratch.path);
  EXPECT_EQ(tokenizer->eos(), tokenizer->id_of("<|im|>"));
  EXPECT_EQ(tokenizer->bos(), tokenizer->eos());
  const auto loaded = load_tokenizer(scratch.path / "tokenizer.json");
  EXPECT_EQ(loaded->definition(), tokenizer->definition());
}

TEST(ImportTokenizer, DefinitionMakesTheSameTokenizerAgain) {
  const Scratch scratch;
  for (const std::string& name : kTokenizers) {
    const auto tokenizer = load(name);
    save_tokenizer(*tokenizer, scratch.path);
    const auto again = load_tokenizer(scratch.path / tokenizer->file_name());
    EXPECT_EQ(again->definition(), tokenizer->definition());
    EXPECT_EQ(again->bos(), tokenizer->bos());
    EXPECT_EQ(again->eos(), tokenizer->eos());
    EXPECT_EQ(again->vocab_size(), tokenizer->vocab_size());
    EXPECT_EQ(again->kind(), "tokenizer_json");
    EXPECT_EQ(encode(*again, "Three experts <|end|></s> wait."),
              encode(*tokenizer, "Three experts <|end|></s> wait."));
    const auto row = make_tokenizer_json(tokenizer->definition(), "definition");
    EXPECT_EQ(row->definition(), tokenizer->definition());
  }
}

TEST(BpeTokenizer, DocumentsCannotEndThemselves) {
  for (const std::string& name : kTokenizers) {
    const auto tokenizer = load(name);
    const std::string text = "a<|end|>b</s>c<s>d<|im|>e<unk>";
    for (const int32_t id : encode(*tokenizer, text)) {
      EXPECT_NE(id, tokenizer->bos()) << name;
      EXPECT_NE(id, tokenizer->eos()) << name;
    }
    const Ids parsed = encode_with_specials(*tokenizer, text);
    EXPECT_NE(std::ranges::find(parsed, tokenizer->eos()), parsed.end()) << name;
  }
}

TEST(BpeTokenizer, ByteLevelGivesBackEveryByteString) {
  for (const std::string name : {"gpt2_style", "llama3_style", "merged_next"}) {
    const auto tokenizer = load(name);
    std::string text;
    for (int a = 0; a < 256; ++a) {
      for (int b = 0; b < 256; ++b) {
        text = {static_cast<char>(a), static_cast<char>(b)};
        ASSERT_EQ(tokenizer->decode(encode(*tokenizer, text)), text) << name << " " << a << " " << b;
      }
    }
    const base::Philox random(11);
    for (uint32_t i = 0; i < 300; ++i) {
      text.clear();
      for (uint32_t j = 0; j < i; ++j) {
        const uint64_t r = random.bits(i, j);
        text.push_back(static_cast<char>(r % 3 == 0 ? r >> 8 : 'a' + (r >> 8) % 26));
      }
      ASSERT_EQ(tokenizer->decode(encode(*tokenizer, text)), text) << name << " " << i;
    }
  }
}

TEST(BpeTokenizer, IllFormedBytesBecomeFallbackBytes) {
  const auto tokenizer = load("llama2_style");
  const std::string text = "a\xff\xc3 \xe2\x96 b\xed\xa0\x80";
  EXPECT_EQ(tokenizer->decode(encode(*tokenizer, text)), text);
  const Ids ids = encode(*tokenizer, "\xff");
  EXPECT_EQ(ids.back(), tokenizer->id_of("<0xFF>"));
}

TEST(BpeTokenizer, ThreadsShareIt) {
  const auto tokenizer = load("qwen_style");
  const Json cases = read_json(kGolden / "qwen_style.cases.json");
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (const Json& c : cases)
        count += encode_with_specials(*tokenizer, c["text"].get<std::string>()) != c["ids"].get<Ids>();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

// Joins the best pair, the leftmost first, until none is left: the definition, step by step.
Ids merge_naively(Ids ids, const std::vector<std::array<int, 3>>& merges) {
  for (;;) {
    size_t best = merges.size(), place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank) {
        if (merges[rank][0] == ids[i] && merges[rank][1] == ids[i + 1]) best = rank, place = i;
      }
    }
    if (best == merges.size()) return ids;
    ids[place] = merges[best][2];
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST(Bpe, WordsOfEveryLengthMergeAsTheDefinitionSays) {
  BpeSource source;
  std::vector<std::string> tokens = {"a", "b", "c"};
  for (int i = 0; i < 3; ++i) source.ids[tokens[i]] = i;
  std::vector<std::array<int, 3>> merges;
  const base::Philox random(5);
  for (uint32_t i = 0; tokens.size() < 40; ++i) {
    const uint64_t r = random.bits(i, 0);
    const int left = static_cast<int>(r % tokens.size()), right = static_cast<int>((r >> 20) % tokens.size());
    const std::string joined = tokens[left] + tokens[right];
    if (joined.size() > 9 || source.ids.contains(joined)) continue;
    source.ids[joined] = static_cast<int>(tokens.size());
    merges.push_back({left, right, static_cast<int>(tokens.size())});
    source.merges.emplace_back(tokens[left], tokens[right]);
    tokens.push_back(joined);
  }
  const Bpe bpe(source, "test");
  Bpe::Scratch scratch;
  for (uint32_t length = 0; length < 260; ++length) {
    std::string word;
    Ids symbols, ids;
    for (uint32_t i = 0; i < length; ++i) {
      const int c = static_cast<int>(random.bits(length, i + 1) % 3);
      word.push_back("abc"[c]);
      symbols.push_back(c);
    }
    bpe.encode_word(word, scratch, ids);
    ASSERT_EQ(ids, merge_naively(symbols, merges)) << word;
  }
}

TEST(Bpe, AMegabyteWithoutBlanksIsOneWordAndDoesNotTakeLong) {
  const auto tokenizer = load("mistral_style");
  const std::string text = std::string(400000, 'e') + std::string(300000, ' ') + std::string(300000, '\n');
  EXPECT_EQ(tokenizer->decode(encode(*tokenizer, text)), text);
  const auto byte_level = load("qwen_style");
  EXPECT_EQ(byte_level->decode(encode(*byte_level, text)), text);
}

}  // namespace
}  // namespace cadre::data
