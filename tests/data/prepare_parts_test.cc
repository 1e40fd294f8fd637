// The small parts of prepare: the JSON line reader, MinHash, compressed streams.
#include <cmath>
#include <set>

#include "data/prepare/json_line.h"
#include "data/prepare/minhash.h"
#include "data/prepare/parts.h"
#include "data/tokenizers/utf8.h"
#include "prepare_fixture.h"

namespace cadre::data {
namespace {

LineFields fields() {
  LineFields f;
  f.text.name = "text";
  f.domain.name = "domain";
  f.id.name = "id";
  return f;
}

TEST(JsonLineTest, ReadsTextAsNlohmannDoes) {
  for (const char* line :
       {R"({"text": "plain"})",
        R"( { "a" : [1, {"text": "inner"}] , "text":"\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00" } )",
        R"({"text":"first","text":"second"})", R"({"te\u0078t":"escaped key"})",
        R"({"n":-1.5e+10,"t":true,"f":false,"z":null,"text":""})"}) {
    LineFields f = fields();
    EXPECT_EQ(parse_json_line(line, f), "") << line;
    EXPECT_EQ(f.text.type, JsonField::Type::kString);
    EXPECT_EQ(f.text.value, nlohmann::json::parse(line).at("text").get<std::string>());
  }
}

// Single-byte edits of good lines: both parsers must agree on what is JSON (nlohmann also refuses invalid
// UTF-8).
TEST(JsonLineTest, AcceptsWhatNlohmannAcceptsOfDamagedLines) {
  const std::vector<std::string> good = {
      R"({"text":"a\u00e9\n\ud83d\ude00","id":-10.25e-3,"domain":[1,{"x":null},[]],"b":[true,false]})",
      R"({"a":{"b":{"c":[0,1.0,2E5,"\/"]}},"text":"x"})"};
  constexpr std::string_view symbols =
      "{}[]\",:\\0123456789eE+-. truefalsnu\x01"
      "d8";
  const base::Philox random(3);
  int accepted = 0, refused = 0;
  for (uint64_t round = 0; round < 40000; ++round) {
    std::string line = good[round % good.size()];
    const auto w = random.words(round);
    const size_t at = w[0] % line.size();
    if (w[2] % 3 == 0) line.erase(at, 1);
    if (w[2] % 3 == 1) line[at] = symbols[w[1] % symbols.size()];
    if (w[2] % 3 == 2) line.insert(at, 1, static_cast<char>(w[1] % 128));
    LineFields f = fields();
    const bool ok = parse_json_line(line, f).empty();
    const auto parsed = nlohmann::json::parse(line, nullptr, false);
    // A lone surrogate is grammatical (RFC 8259 section 8.2); nlohmann refuses it.
    if (ok && line.find("\\u") != std::string::npos && parsed.is_discarded()) continue;
    ASSERT_EQ(ok, parsed.is_object()) << line;
    ++(ok ? accepted : refused);
    if (!ok || !parsed.contains("text") || !parsed["text"].is_string()) continue;
    ASSERT_EQ(f.text.value, parsed["text"].get<std::string>()) << line;
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(JsonLineTest, RefusesDeepNestingInsteadOfOverflowingTheStack) {
  LineFields f = fields();
  EXPECT_NE(parse_json_line("{\"a\":" + std::string(2'000'000, '['), f), "");
}

TEST(MinhashTest, EstimatesTheJaccardSimilarityOfWordGrams) {
  const auto grams = [](const std::string& text) {
    std::vector<std::string> words;
    std::string word;
    for (const char c : text) {
      if (std::isalnum(static_cast<unsigned char>(c))) {
        word += c;
      } else if (!word.empty()) {
        words.push_back(std::exchange(word, {}));
      }
    }
    std::set<std::string> out;
    for (size_t i = 0; i + 5 <= words.size(); ++i) {
      std::string gram;
      for (size_t j = 0; j < 5; ++j) gram += words[i + j] + " ";
      out.insert(gram);
    }
    return out;
  };
  double error_sum = 0;
  int pairs = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const std::string a = random_text(i, 400);
    const std::string b = a.substr(0, a.size() * (i % 10) / 10) + random_text(1000 + i, 50);
    const auto ga = grams(a), gb = grams(b);
    double both = 0;
    for (const std::string& gram : ga) both += gb.contains(gram) ? 1 : 0;
    const double exact = both / (static_cast<double>(ga.size() + gb.size()) - both);
    const double error = estimate_jaccard(minhash(a), minhash(b)) - exact;
    EXPECT_LT(std::abs(error), 0.2) << exact;  // 4.5 standard errors
    error_sum += error;
    ++pairs;
  }
  EXPECT_LT(std::abs(error_sum / pairs), 0.015) << "biased";
}

TEST(MinhashTest, SeesThroughCaseAndPunctuationOnly) {
  const std::string text = random_text(1, 100);
  std::string shouted = "  " + text + "!?";
  for (char& c : shouted) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  EXPECT_EQ(minhash(text), minhash(shouted));
  EXPECT_NE(minhash("a b"), minhash("b a"));
  EXPECT_LT(estimate_jaccard(minhash("one"), minhash("two")), 0.2);
  // Chinese has no blanks: characters are the words.
  std::string chinese;
  for (int i = 0; i < 200; ++i)
    chinese += {char(0xe4 + i % 5), char(0x80 + i * 7 % 64), char(0x80 + i * 13 % 64)};
  EXPECT_GT(estimate_jaccard(minhash(chinese), minhash(chinese.substr(30))), 0.8);
}

TEST(MinhashTest, FindsPairsAtTheThresholdWithTheStatedProbability) {
  const Banding at_08 = choose_banding(0.8);
  EXPECT_EQ(at_08.bands, 18);
  EXPECT_EQ(at_08.rows, 7);
  for (const double threshold : {0.3, 0.5, 0.7, 0.9, 1.0}) {
    const Banding b = choose_banding(threshold);
    EXPECT_LE(b.bands * b.rows, kSignatureBins);
    EXPECT_GE(1 - std::pow(1 - std::pow(threshold, b.rows), b.bands), 0.95);
  }
}

class PartsTest : public PrepareTest {};

TEST_F(PartsTest, FindDamageAndHaveTheirNameOnlyWhenWhole) {
  const fs::path path = root_ / "part";
  {
    PartWriter unfinished(path);
    unfinished.put(uint64_t(1));
  }
  EXPECT_TRUE(fs::is_empty(root_));
  PartWriter writer(path);
  std::vector<uint64_t> values(100001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = i * i;
  writer.write(std::as_bytes(std::span(values)));
  writer.put('x');
  writer.finish("tail");
  EXPECT_TRUE(is_whole_part(path));
  EXPECT_EQ(PartReader(path).tail(), "tail");
  PartStream<uint64_t> stream(path, 5);
  uint64_t value = 0;
  for (size_t i = 5; i < values.size(); ++i) {
    ASSERT_TRUE(stream.next(value));
    ASSERT_EQ(value, i * i);
  }
  EXPECT_FALSE(stream.next(value));
  const std::string whole = base::read_file(path, ExitCode::kData);
  for (const size_t at : {size_t(0), size_t(700001), whole.size() - 40, whole.size() - 1}) {
    std::string damaged = whole;
    damaged[at] ^= 1;
    write("part", damaged);
    EXPECT_FALSE(is_whole_part(path)) << at;
  }
  write("part", whole.substr(0, whole.size() - 8));
  EXPECT_FALSE(is_whole_part(path));
  EXPECT_FALSE(is_whole_part(root_ / "none"));
}

}  // namespace
}  // namespace cadre::data
