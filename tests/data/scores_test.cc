// Score files: what is written comes back with the right data and model, and nothing else passes.
#include "data/scores.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "data/corpus.h"
#include "data/shard.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

class ScoresTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("cadre_scores_test_{}", getpid());
    fs::create_directories(folder_);
    manifest_.folder = folder_;
    manifest_.tokenizer_file = "tokenizer.model";
    manifest_.tokenizer_sha256 = std::string(64, 'a');
    manifest_.vocab_size = 300;
    Split split{"train", {}, {{"web"}, {"code"}}};
    ShardWriter writer({manifest_.tokenizer_sha256, 300, {"web", "code"}, "train"});
    for (int shard = 0; shard < 2; ++shard) {
      for (int d = 0; d < 3 + shard; ++d) {
        const std::vector<int32_t> tokens(size_t(4 + d), 7);
        writer.add(tokens, d % 2, 10, {});
        DomainInfo& domain = split.domains[size_t(d % 2)];
        domain.documents += 1, domain.tokens += int64_t(tokens.size()), domain.bytes += 10;
      }
      split.shards.push_back(writer.finish(folder_, fmt::format("train-{}.h5", shard)));
    }
    manifest_.splits.push_back(split);
  }
  void TearDown() override { fs::remove_all(folder_); }

  const Split& split() const { return manifest_.splits[0]; }
  ScoreHeader header(int shard) const {
    return {split().shards[size_t(shard)].sha256,
            manifest_.tokenizer_sha256,
            std::string(64, 'm'),
            "kind: loss",
            {"nats", "tokens"}};
  }
  fs::path file(int shard) const { return score_file(manifest_, "ref", split().shards[size_t(shard)].file); }
  void write_both() const {
    write_scores(file(0), header(0), {{0.5, -1.25, 1e-300}, {3, 4, 5}});
    write_scores(file(1), header(1), {{1, 2, 3, 4}, {3, 4, 5, 6}});
  }
  std::string refusal() const {
    try {
      load_scores(manifest_, split(), "ref");
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData) << e.what();
      return e.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }

  fs::path folder_;
  Manifest manifest_;
};

TEST_F(ScoresTest, ComeBackInTheOrderOfTheManifest) {
  write_both();
  const auto corpus = open_corpus(manifest_, "train", Verify::kAlways);
  const Scores s = corpus->scores("ref");
  EXPECT_EQ(s.column("nats"), (std::vector<double>{0.5, -1.25, 1e-300, 1, 2, 3, 4}));
  EXPECT_EQ(s.column("tokens"), (std::vector<double>{3, 4, 5, 3, 4, 5, 6}));
  EXPECT_THROW(s.column("bytes"), Error);
  EXPECT_EQ(read_score_header(file(0))->model, std::string(64, 'm'));
  EXPECT_FALSE(read_score_header(folder_ / "none.h5"));
  const std::string before = base::sha256_file(file(0));
  write_both();
  EXPECT_EQ(base::sha256_file(file(0)), before) << "the same scores are the same bytes";
}

TEST_F(ScoresTest, OfOtherDataTokenizersOrModelsAreRefused) {
  EXPECT_NE(refusal().find("no such file. Make the scores of split 'train' with `cadre score --name ref`"),
            std::string::npos);
  const auto with = [&](auto change) {
    write_both();
    ScoreHeader other = header(1);
    change(other);
    write_scores(file(1), other, {{1, 2, 3, 4}, {3, 4, 5, 6}});
    return refusal();
  };
  EXPECT_NE(with([](ScoreHeader& h) { h.shard_sha256[0] = 'x'; }).find("belong to shard"), std::string::npos);
  EXPECT_NE(with([](ScoreHeader& h) { h.tokenizer_sha256[0] = 'x'; }).find("belong to tokenizer"),
            std::string::npos);
  EXPECT_NE(with([](ScoreHeader& h) { h.model[0] = 'x'; }).find("belong to model"), std::string::npos);
  EXPECT_NE(with([](ScoreHeader& h) { h.settings = "kind: less"; }).find("belong to settings"),
            std::string::npos);
  EXPECT_NE(with([](ScoreHeader& h) { h.columns[1] = "t"; }).find("columns nats, t"), std::string::npos);
  write_scores(file(1), header(1), {{1, 2, 3}, {3, 4, 5}});
  EXPECT_NE(refusal().find("3 elements, expected 4"), std::string::npos);
}

TEST_F(ScoresTest, ThatAreNotNumbersAreNeitherWrittenNorRead) {
  try {
    write_scores(file(0), header(0), {{1, std::nan(""), 2}, {1, 1, 1}});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kNumeric);
    EXPECT_NE(std::string(e.what()).find("document 1 has the score nan in column 'nats'"), std::string::npos);
  }
  EXPECT_FALSE(fs::exists(file(0)));
  EXPECT_THROW(score_file(manifest_, "../x", "a.h5"), Error);
  EXPECT_THROW(score_file(manifest_, "", "a.h5"), Error);
}

TEST_F(ScoresTest, DamageIsFoundWhereverItIs) {
  write_both();
  const std::string whole = base::read_file(file(1), ExitCode::kData);
  int wrong = 0;
  const Scores expected = load_scores(manifest_, split(), "ref");
  for (size_t at = 0; at < whole.size(); at += 7) {
    std::string bytes = whole;
    bytes[at] = char(bytes[at] ^ 0x10);
    std::ofstream(file(1), std::ios::binary) << bytes;
    try {
      wrong += load_scores(manifest_, split(), "ref").values != expected.values;
    } catch (const Error&) {
    }
  }
  EXPECT_EQ(wrong, 0) << "scores changed unnoticed";
}

}  // namespace
}  // namespace cadre::data
