// The whole of prepare: the same bytes for any threads, ranks and restarts; what stays and what goes.
#include "data/prepare/prepare.h"

#include <sys/wait.h>
#include <csignal>
#include <cstdlib>

#include <algorithm>
#include <set>
#include <thread>

#include "data/prepare/scan.h"
#include "data/prepare/select.h"
#include "prepare_fixture.h"

namespace cadre::data {
namespace {

using namespace std::string_literals;

class PipelineTest : public PrepareTest {
 protected:
  // A mixed corpus: plain and compressed lines, text files in folders, some duplicates and bad lines.
  void make_corpus() {
    std::string plain, zipped, packed;
    for (uint64_t i = 0; i < 150; ++i) {
      plain += json_line(random_text(i, 60 + static_cast<int>(i % 50)), i % 3 == 0 ? "science" : "");
      zipped += json_line(random_text(1000 + i, 80));
      packed += json_line(random_text(i % 10 == 0 ? i : 2000 + i, 70));
      if (i % 40 == 7) plain += "{\"text\": broken\n\n";
    }
    write("in/web.jsonl", plain);
    write("in/news.jsonl.gz", gzip(zipped));
    write("in/wiki.jsonl.zst", zstd(packed));
    for (uint64_t i = 0; i < 40; ++i) {
      write(fmt::format("in/books/a{}/{}.txt", i % 4, i), random_text(3000 + i, 300) + "\xff\0\t "s);
    }
    options_.inputs = {root_ / "in"};
  }
  void expect_no_final_files() const {
    for (const auto& [name, _] : hashes(options_.out)) EXPECT_TRUE(name.starts_with(".work/")) << name;
  }
};

TEST_F(PipelineTest, GivesTheSameBytesForAnyThreadsAndRanks) {
  make_corpus();
  options_.tokenizer = "sentencepiece";
  options_.vocab_size = 600;
  options_.sample_bytes = 40000;
  run(options_);
  const auto expected = hashes(options_.out);
  EXPECT_TRUE(expected.contains("train-00001.h5"));
  EXPECT_TRUE(expected.contains("valid-00000.h5"));
  EXPECT_TRUE(expected.contains("tokenizer.model"));
  EXPECT_EQ(expected.count(".work/job.json"), 0u) << "the work folder stays";
  for (const auto& [threads, ranks] : {std::pair(2, 1), {4, 1}, {1, 2}, {1, 3}, {2, 3}}) {
    options_.out = root_ / fmt::format("out-{}-{}", threads, ranks);
    options_.threads = threads;
    run(options_, ranks);
    EXPECT_EQ(hashes(options_.out), expected) << threads << " threads, " << ranks << " ranks";
  }
}

TEST_F(PipelineTest, KeepsEveryByteOfEveryDocument) {
  write("in/a/x.txt", "one\0two\xff\xfe \xe2\x96\x81\t\t\n\n  end"s);
  write("in/a/y.txt", "\n\n  text\r\n");
  write("in/b.jsonl", R"({"text": "tab\tnul\u0000 \ud83d\ude00 lone \ud800 \u2581"})"
                      "\n");
  options_.inputs = {root_ / "in"};
  options_.valid_fraction = 0;
  for (const char* tokenizer : {"bytes", "sentencepiece"}) {
    options_.out = root_ / tokenizer;
    options_.tokenizer = tokenizer;
    run(options_);
    const auto found = texts(options_.out, "train");
    EXPECT_EQ(found.at("a")[0], "one\0two\xff\xfe \xe2\x96\x81\t\t\n\n  end"s);
    EXPECT_EQ(found.at("a")[1], "\n\n  text\r\n");
    EXPECT_EQ(found.at("b")[0], "tab\tnul\0 \xf0\x9f\x98\x80 lone \xed\xa0\x80 \xe2\x96\x81"s);
  }
}

TEST_F(PipelineTest, GoesOnAfterAFullDiskWithTheSameResult) {
  make_corpus();
  options_.tokenizer = "sentencepiece";
  options_.vocab_size = 600;
  options_.sample_bytes = 40000;
  options_.threads = 2;
  run(options_);
  const auto expected = hashes(options_.out);
  options_.out = root_ / "full";
  const auto fill = [&](const std::string& part, uint64_t bytes) {
    base::testing::fail_writes(part, bytes, ENOSPC);
    const std::string message = failure(options_);
    base::testing::fail_writes("", 0, 0);
    EXPECT_NE(message.find("No space left"), std::string::npos) << message;
    EXPECT_FALSE(fs::exists(options_.out / "manifest.json"));
  };
  // In the order in which one thread writes them: finished parts are not written again.
  options_.threads = 1;
  for (const char* part :
       {"job.json", "minhash-000000", "scan-000002", "sample-000006", "choices", "tokenizer.model",
        "tokens-000000", "lengths-000006", "train-00000.h5", "valid-00000.json"}) {
    fill(part, 0);
    fill(".work/", 100);
    expect_no_final_files();
  }
  fill("full/manifest.json", 0);
  run(options_);
  EXPECT_EQ(hashes(options_.out), expected);
}

TEST_F(PipelineTest, LeavesNoShardUnderItsNameWhenTheDiskFillsUpAnywhere) {
  make_corpus();
  run(options_);
  const auto expected = hashes(options_.out);
  options_.out = root_ / "full";
  int failures = 0;
  for (uint64_t bytes = 1000;; bytes *= 2) {
    base::testing::fail_writes((root_ / "full").string(), bytes, ENOSPC);
    try {
      run(options_);
      break;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData);
      ++failures;
    }
    EXPECT_FALSE(fs::exists(options_.out / "manifest.json"));
    for (const auto& [name, hash] : hashes(options_.out)) {
      if (!name.starts_with(".work/") && name.ends_with(".h5")) {
        EXPECT_EQ(hash, expected.at(name));
      }
    }
  }
  EXPECT_GE(failures, 4);
  EXPECT_EQ(hashes(options_.out), expected);
}

TEST_F(PipelineTest, GoesOnAfterAKillWithTheSameResult) {
  make_corpus();
  run(options_);
  const auto expected = hashes(options_.out);
  int killed = 0;
  for (const int delay_us : {500, 2000, 5000, 10000, 20000, 40000}) {
    options_.out = root_ / fmt::format("killed-{}", delay_us);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      run(options_);
      std::_Exit(0);
    }
    usleep(static_cast<useconds_t>(delay_us));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    killed += WIFSIGNALED(status) ? 1 : 0;
    if (fs::exists(options_.out / "manifest.json")) continue;  // it was quicker than the signal
    run(options_, 2);
    EXPECT_EQ(hashes(options_.out), expected) << "killed after " << delay_us << " us";
  }
  EXPECT_GT(killed, 0);
}

TEST_F(PipelineTest, MakesADamagedWorkFileAgain) {
  make_corpus();
  run(options_);
  const auto expected = hashes(options_.out);
  options_.out = root_ / "damaged";
  base::testing::fail_writes(".work/shards/train-00001.h5", 0, ENOSPC);
  failure(options_);
  base::testing::fail_writes("", 0, 0);
  for (const char* name : {"scan-000001", "tokens-000002", "minhash-000003"}) {
    std::fstream file(options_.out / ".work" / name, std::ios::in | std::ios::out | std::ios::binary);
    ASSERT_TRUE(file) << name;
    file.seekp(100);
    file.put('!');
  }
  fs::resize_file(options_.out / ".work/lengths-000004", 10);
  run(options_);
  EXPECT_EQ(hashes(options_.out), expected);
}

TEST_F(PipelineTest, StartsAgainWhenInputsOrOptionsChanged) {
  make_corpus();
  base::testing::fail_writes(".work/shards", 0, ENOSPC);
  failure(options_);
  base::testing::fail_writes("", 0, 0);
  write("in/more.jsonl", json_line(random_text(77777, 50)));
  run(options_);
  const auto found = hashes(options_.out);
  options_.out = root_ / "fresh";
  run(options_);
  EXPECT_EQ(hashes(options_.out), found);
}

TEST_F(PipelineTest, RefusesAFolderWithAManifestUnlessForced) {
  make_corpus();
  run(options_);
  const auto expected = hashes(options_.out);
  EXPECT_NE(failure(options_, ExitCode::kUsage).find("--force"), std::string::npos);
  EXPECT_EQ(hashes(options_.out), expected);
  options_.force = true;
  run(options_, 2);
  EXPECT_EQ(hashes(options_.out), expected);
  options_.shard_tokens = 1 << 20;  // fewer shards: the old ones must go
  run(options_);
  EXPECT_FALSE(fs::exists(options_.out / "train-00001.h5"));
}

TEST_F(PipelineTest, CutsShardsAtTheWantedNumberOfTokens) {
  std::string lines;
  for (uint64_t i = 0; i < 40; ++i) lines += json_line(random_text(i, 60));
  options_.inputs = {write("in/a.jsonl", lines)};
  options_.shard_tokens = 2000;
  const Manifest manifest = run(options_).manifest;
  ASSERT_GT(manifest.split("train").shards.size(), 3u);
  for (const ShardInfo& shard : manifest.split("train").shards)
    EXPECT_LE(shard.tokens, options_.shard_tokens);
  options_.shard_tokens = 1;  // each document is larger: one each
  options_.force = true;
  const Manifest single = run(options_).manifest;
  for (const ShardInfo& shard : single.split("train").shards) EXPECT_EQ(shard.documents, 1);
  EXPECT_EQ(all_texts(options_.out, "train").size(), single.split("train").shards.size());
}

TEST_F(PipelineTest, DropsExactDuplicatesEverywhereAndKeepsTheFirst) {
  const std::string text = random_text(1, 50);
  write("in/a.jsonl", json_line(random_text(2, 50)) + json_line(text) + json_line(text));
  write("in/b.jsonl", json_line(text) + json_line(random_text(3, 50)));
  write("in/c/d.txt", text);
  options_.inputs = {root_ / "in"};
  options_.valid_fraction = 0;
  options_.near_duplicates = 0;
  const Report report = run(options_).report;
  EXPECT_EQ(report.counts[size_t(InputProblem::kExactDuplicate)], 3);
  const auto found = texts(options_.out, "train");
  EXPECT_EQ(found.at("a"), (std::vector<std::string>{random_text(2, 50), text}));
  EXPECT_EQ(found.at("b"), (std::vector<std::string>{random_text(3, 50)}));
  EXPECT_EQ(found.count("c"), 0u);
}

// `changed` of the words replaced.
std::string edited(std::string text, int changed, uint64_t seed) {
  const std::string other = random_text(seed, changed);
  return text.substr(0, text.size() - other.size()) + other;
}

TEST_F(PipelineTest, DropsNearDuplicatesWithinADomainOnly) {
  std::string a, b;
  std::vector<std::string> expected_a, expected_b;
  for (uint64_t i = 0; i < 30; ++i) {
    const std::string text = random_text(i, 300), near = edited(text, 10, 500 + i),
                      far = edited(text, 200, 900 + i);
    a += json_line(text) + json_line(near) + json_line(far);
    b += json_line(edited(text, 10, 700 + i));
    expected_a.insert(expected_a.end(), {text, far});
    expected_b.push_back(edited(text, 10, 700 + i));
  }
  write("in/a.jsonl", a);
  write("in/b.jsonl", b);
  options_.inputs = {root_ / "in"};
  options_.valid_fraction = 0;
  const Report report = run(options_).report;
  EXPECT_EQ(report.counts[size_t(InputProblem::kNearDuplicate)], 30);
  const auto found = texts(options_.out, "train");
  EXPECT_EQ(found.at("a"), expected_a);
  EXPECT_EQ(found.at("b"), expected_b);
  options_.near_duplicates = 0;
  options_.force = true;
  EXPECT_EQ(run(options_).report.counts[size_t(InputProblem::kNearDuplicate)], 0);
}

// With memory for a few entries at a time the tables are built in many rounds; nothing else may change.
TEST_F(PipelineTest, DecidesTheSameWithLittleMemory) {
  std::string lines;
  for (uint64_t i = 0; i < 2000; ++i) lines += json_line(edited(random_text(i % 500, 40), 3, i % 1500));
  write("in/a.jsonl", lines);
  fs::create_directories(root_ / "work");
  const auto decide = [&](int64_t memory_bytes, int threads) {
    options_.memory_bytes = memory_bytes;
    std::vector<Choice> choices;
    comm::run_threads(1, [&](comm::World& world) {
      const auto comm = world.everyone("test");
      Work work{options_,       find_inputs({root_ / "in"}, 20000),     *comm, threads,
                root_ / "work", {"text", "domain", "id", 1, 0, 1 << 20}};
      scan(work);
      fs::remove(work.choice_part());
      select_documents(work);
      const Choices read(work);
      for (int64_t unit = 0; unit < work.num_units(); ++unit) {
        const std::vector<Choice> of_unit = read.of_unit(unit);
        choices.insert(choices.end(), of_unit.begin(), of_unit.end());
      }
    });
    return choices;
  };
  const std::vector<Choice> expected = decide(int64_t(2) << 30, 1);
  EXPECT_EQ(std::ranges::count(expected, Choice::kExactDuplicate), 500);
  EXPECT_GT(std::ranges::count(expected, Choice::kNearDuplicate), 200);
  EXPECT_EQ(decide(50000, 3), expected);  // some 5 rounds for exact, 40 for near duplicates
}

TEST_F(PipelineTest, HoldsOutTheSameTextsWhenInputsGrow) {
  std::string lines;
  for (uint64_t i = 0; i < 400; ++i) lines += json_line(random_text(i, 40));
  write("in/m.jsonl", lines);
  options_.inputs = {root_ / "in"};
  run(options_);
  const std::vector<std::string> before = all_texts(options_.out, "valid");
  EXPECT_GT(before.size(), 8u);
  EXPECT_LT(before.size(), 40u);
  // New texts before and after, near duplicates of held-out ones among them.
  std::string first, last;
  for (uint64_t i = 1000; i < 1300; ++i) first += json_line(random_text(i, 40));
  for (const std::string& text : before) last += json_line(edited(text, 1, 5)) + json_line(text);
  write("in/a.jsonl", first);
  write("in/z.jsonl", last);
  options_.out = root_ / "grown";
  run(options_);
  const std::vector<std::string> after = all_texts(options_.out, "valid"),
                                 train = all_texts(options_.out, "train");
  EXPECT_TRUE(std::ranges::includes(after, before));
  for (const std::string& text : after) EXPECT_FALSE(std::ranges::binary_search(train, text));
}

TEST_F(PipelineTest, TakesNearDuplicatesOfHeldOutTextsFromTheTrainingSet) {
  std::string lines;
  for (uint64_t i = 0; i < 100; ++i) {
    // The near duplicate comes first: by input order alone it would stay.
    lines += json_line(edited(random_text(i, 200), 4, 900 + i)) + json_line(random_text(i, 200));
  }
  write("in/a.jsonl", lines);
  options_.inputs = {root_ / "in"};
  options_.valid_fraction = 0.3;
  options_.near_duplicates = 0;
  run(options_);
  const std::vector<std::string> held_out = all_texts(options_.out, "valid");
  options_.near_duplicates = 0.8;
  options_.force = true;
  run(options_);
  EXPECT_EQ(all_texts(options_.out, "valid"), held_out) << "held-out texts stay, whatever is near to them";
  std::set<std::string> heads;  // texts and their near duplicates begin alike
  for (const std::string& text : all_texts(options_.out, "valid")) heads.insert(text.substr(0, 400));
  EXPECT_GT(heads.size(), 20u);
  for (const std::string& text : all_texts(options_.out, "train"))
    EXPECT_FALSE(heads.contains(text.substr(0, 400)));
}

TEST_F(PipelineTest, UsesAGivenTokenizer) {
  make_corpus();
  options_.tokenizer = "sentencepiece";
  options_.vocab_size = 600;
  run(options_);
  const auto trained = hashes(options_.out);
  options_.tokenizer = (options_.out / "tokenizer.model").string();
  options_.out = root_ / "given";
  run(options_);
  auto given = hashes(options_.out);
  EXPECT_EQ(given.at("train-00000.h5"), trained.at("train-00000.h5"));
  EXPECT_EQ(given.at("manifest.json"), trained.at("manifest.json"));
  options_.tokenizer = (root_ / "none.model").string();
  options_.out = root_ / "missing";
  EXPECT_NE(failure(options_).find("none.model"), std::string::npos);
}

TEST_F(PipelineTest, UsesTheTokenizerOfAFolderOrSaysWhatItLacks) {
  make_corpus();
  const fs::path folder = fs::path(CADRE_GOLDEN_FOLDER) / "gpt2_files";  // encoder.json and vocab.bpe
  options_.tokenizer = folder.string();
  const Manifest manifest = run(options_).manifest;
  EXPECT_EQ(manifest.vocab_size, load_tokenizer(folder)->vocab_size());
  EXPECT_EQ(manifest.tokenizer_kind, "tokenizer_json");
  options_.tokenizer = (root_ / "empty").string();
  options_.out = root_ / "refused";
  fs::create_directories(options_.tokenizer);
  const std::string message = failure(options_);
  for (const char* part : {"empty is a folder", "found none of tokenizer.json", "give a folder with one"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_TRUE(fs::is_empty(options_.out));
}

}  // namespace
}  // namespace cadre::data
