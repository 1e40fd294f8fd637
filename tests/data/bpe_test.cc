// BPE tokenizers from tokenizer.json: ids against those of the reference library
// (tests/golden/make_tokenizers.py), and what a hostile file or text can do.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/tokenizers/bpe.h"
#include "data/tokenizers/regex.h"
#include "data/tokenizers/tokenizer_json.h"
#include "data/tokenizers/unicode.h"
#include "parallel/base/errors.h"
#include "parallel/base/files.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

const fs::path kGolden = CADRE_GOLDEN_FOLDER;
const std::vector<std::string> kTokenizers = {
    "gpt2_style",      "qwen_style",       "llama3_style",  "llama2_style", "llama2_words",
    "mistral_style",   "metaspace_always", "metaspace_unk", "prefix_space", "digits_removed",
    "merged_previous", "merged_next",      "inverted"};

Json read_json(const fs::path& file) {
  return Json::parse(base::read_file(file, ExitCode::kData));
}

std::unique_ptr<BpeTokenizer> load(const std::string& name) {
  const bool sentencepiece = name.starts_with("llama2") || name.starts_with("m") != name.starts_with("merged");
  return import_tokenizer(kGolden / (name + ".json"),
                          sentencepiece ? DocumentMarks{} : DocumentMarks{"<|end|>", "<|end|>"});
}

Ids encode(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

Ids encode_with_specials(const BpeTokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode_with_specials(text, ids);
  return ids;
}

// A folder of this test alone, gone with it.
class Scratch {
 public:
  Scratch() : path(fs::temp_directory_path() / ("cadre_bpe_" + std::to_string(getpid()))) {
    fs::create_directories(path);
  }
  ~Scratch() { fs::remove_all(path); }
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }
  const fs::path path;
};

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
