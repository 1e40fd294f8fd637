// Formats, domains, and each kind of bad input: counted, reported with file and line, fatal when strict.
#include <string>

#include "prepare_fixture.h"

namespace cadre::data {
namespace {

class InputsTest : public PrepareTest {
 protected:
  InputsTest() { options_.valid_fraction = 0; }

  // One bad input of `kind` must be counted once, reported with this file, line and detail, end a strict run,
  // and leave `documents` others alone.
  void expect_problem(InputProblem kind, const std::string& file, int64_t line, const std::string& detail,
                      size_t documents) {
    options_.inputs = {root_ / "in"};
    const PrepareResult result = run(options_);
    const size_t k = size_t(kind);
    ASSERT_EQ(result.report.counts[k], 1) << report_text(result.report, result.manifest);
    const ProblemPlace& place = result.report.places[k].at(0);
    EXPECT_TRUE(place.file.ends_with(file)) << place.file;
    EXPECT_EQ(place.line, line);
    EXPECT_NE(place.detail.find(detail), std::string::npos) << place.detail;
    EXPECT_EQ(bad_inputs(result.report), 1);
    EXPECT_EQ(all_texts(options_.out, "train").size(), documents);
    const auto json = nlohmann::json::parse(base::read_file(options_.out / "report.json", ExitCode::kData));
    const auto& entry = json.at("problems").at(std::string(name_of(kind)));
    EXPECT_EQ(entry.at("count"), 1);
    EXPECT_EQ(entry.at("first")[0].value("line", int64_t(0)), line);
    EXPECT_NE(report_text(result.report, result.manifest).find(file), std::string::npos);

    options_.strict = true;
    for (const int ranks : {1, 2}) {
      options_.out = root_ / fmt::format("strict-{}", ranks);
      options_.threads = 2;
      const std::string message = failure(options_, ExitCode::kData, ranks);
      EXPECT_NE(message.find(line > 0 ? fmt::format("{}:{}", file, line) : file), std::string::npos)
          << message;
      EXPECT_FALSE(fs::exists(options_.out / "manifest.json"));
    }
  }
  // Many good lines, with one bad one at the given line (from 1).
  static std::string lines_with(const std::string& bad, int at, int count = 300) {
    std::string lines;
    for (int i = 1; i <= count; ++i)
      lines += i == at ? bad + "\n" : json_line(random_text(static_cast<uint64_t>(i), 40));
    return lines;
  }
};

TEST_F(InputsTest, CountsBrokenJson) {
  write("in/a.jsonl", lines_with(R"({"text": "cut off)", 217));  // in a later unit of the file
  expect_problem(InputProblem::kBrokenJson, "a.jsonl", 217, "inside a string", 299);
}

TEST_F(InputsTest, CountsLinesWithoutText) {
  write("in/a.jsonl", lines_with(R"({"id": "doc-7", "body": "x"})", 3));
  expect_problem(InputProblem::kNoText, "a.jsonl", 3, "--text-field", 299);
}

TEST_F(InputsTest, CountsTextThatIsNoString) {
  write("in/a.jsonl", lines_with(R"({"text": ["x"]})", 2));
  expect_problem(InputProblem::kNoText, "a.jsonl", 2, "not a string", 299);
}

TEST_F(InputsTest, CountsEmptyDocuments) {
  write("in/a.jsonl", lines_with(R"({"text": " \n\t"})", 299) + "\n\n");  // blank lines are no documents
  expect_problem(InputProblem::kEmpty, "a.jsonl", 299, "", 299);
}

TEST_F(InputsTest, CountsEmptyFiles) {
  write("in/a.txt", "some text");
  write("in/b.txt", "");
  expect_problem(InputProblem::kEmpty, "b.txt", 0, "", 1);
}

TEST_F(InputsTest, CountsInvalidUtf8AndKeepsIt) {
  write("in/a.jsonl", lines_with("{\"text\": \"caf\xe9 au lait\"}", 290));
  expect_problem(InputProblem::kInvalidUtf8, "a.jsonl", 290, "byte 4 of the text is 0xe9", 300);
}

TEST_F(InputsTest, CountsATruncatedGzipFileAndKeepsWhatCameBefore) {
  const std::string whole = gzip(lines_with("", 0));
  write("in/a.jsonl.gz", whole.substr(0, whole.size() / 2));
  options_.inputs = {root_ / "in"};
  const Report report = run(options_).report;
  EXPECT_EQ(report.counts[size_t(InputProblem::kDamagedArchive)], 1);
  EXPECT_EQ(bad_inputs(report), 1);  // the line that lost its end is not a broken line as well
  EXPECT_GT(report.documents_read, 50);
  EXPECT_LT(report.documents_read, 250);
  const std::vector<std::string> found = all_texts(options_.out, "train");
  for (const std::string& text : found) EXPECT_GT(text.size(), 100u);
  const ProblemPlace& place = report.places[size_t(InputProblem::kDamagedArchive)].at(0);
  EXPECT_EQ(place.line, report.documents_read + 1);
  EXPECT_NE(place.detail.find("too early"), std::string::npos);
}

TEST_F(InputsTest, CountsATruncatedZstdFileAndACorruptGzip) {
  const std::string whole = zstd(lines_with("", 0));
  write("in/a.jsonl.zst", whole.substr(0, whole.size() - 10));
  std::string corrupt = gzip(random_text(5, 3000));
  corrupt[corrupt.size() / 2] ^= 0x40;
  write("in/b.txt.gz", corrupt);
  write("in/c.txt.gz", "not gzip at all");
  write("in/d.txt", "fine");
  options_.inputs = {root_ / "in"};
  const Report report = run(options_).report;
  EXPECT_EQ(report.counts[size_t(InputProblem::kDamagedArchive)], 3);
  EXPECT_EQ(texts(options_.out, "train").at("in"), std::vector<std::string>{"fine"});
}

TEST_F(InputsTest, CountsUnreadableFiles) {
  write("in/a.jsonl", lines_with("", 0));
  fs::create_symlink(root_ / "nowhere", root_ / "in/gone.txt");
  expect_problem(InputProblem::kUnreadableFile, "gone.txt", 0, "No such file", 300);
}

TEST_F(InputsTest, StrictStopsAtTheFirstInInputOrder) {
  std::string lines;
  for (int i = 1; i <= 500; ++i)
    lines += i % 100 == 50 ? "{bad}\n" : json_line(random_text(static_cast<uint64_t>(i), 40));
  write("in/a.jsonl", lines);
  options_.inputs = {root_ / "in"};
  options_.strict = true;
  options_.threads = 4;
  for (const int ranks : {1, 3})
    EXPECT_NE(failure(options_, ExitCode::kData, ranks).find("a.jsonl:50:"), std::string::npos);
  // Work of an earlier run that was not strict does not hide it.
  options_.strict = false;
  base::testing::fail_writes(".work/choices", 0, ENOSPC);
  failure(options_);
  base::testing::fail_writes("", 0, 0);
  options_.strict = true;
  EXPECT_NE(failure(options_).find("a.jsonl:50:"), std::string::npos);
}

TEST_F(InputsTest, ReportsOnlyTheFirstPlacesOfEachKind) {
  write(
      "in/a.jsonl", lines_with("", 0, 20) + [] {
        std::string bad;
        for (int i = 0; i < 100; ++i)
          bad += "nonsense that fills more than one unit of work, line after line, in this file\n";
        return bad;
      }());
  options_.inputs = {root_ / "in"};
  options_.unit_bytes = 2000;
  const Report report = run(options_).report;
  EXPECT_EQ(report.counts[size_t(InputProblem::kBrokenJson)], 100);
  const auto& places = report.places[size_t(InputProblem::kBrokenJson)];
  ASSERT_EQ(places.size(), Report::kMaxPlaces);
  for (size_t i = 0; i < places.size(); ++i) EXPECT_EQ(places[i].line, static_cast<int64_t>(21 + i));
}

TEST_F(InputsTest, FiltersByLengthInCharacters) {
  write("in/a.jsonl",
        json_line("\xc3\xa4\xc3\xb6\xc3\xbc") + json_line("abcd") + json_line("abcdefg") + json_line("ab"));
  options_.inputs = {root_ / "in"};
  options_.min_chars = 3;
  options_.max_chars = 5;
  const Report report = run(options_).report;
  EXPECT_EQ(report.counts[size_t(InputProblem::kTooShort)], 1);
  EXPECT_EQ(report.counts[size_t(InputProblem::kTooLong)], 1);
  EXPECT_EQ(bad_inputs(report), 0);
  EXPECT_EQ(all_texts(options_.out, "train"), (std::vector<std::string>{"abcd", "\xc3\xa4\xc3\xb6\xc3\xbc"}));
}

TEST_F(InputsTest, LeavesOutDocumentsThatDoNotFitInMemory) {
  options_.memory_bytes = int64_t(128) << 20;  // 4 MiB a document
  options_.shard_tokens = 1 << 20;
  options_.unit_bytes = 1 << 20;
  write("in/a.jsonl", json_line(random_text(1, 40)) + json_line(std::string(5 << 20, 'x')) + "{\"text\": \"" +
                          std::string(20 << 20, 'y') + "\"}\n" + json_line(random_text(2, 40)));
  write("in/big.txt", std::string((4 << 20) + 1, 'z'));
  write("in/fits.txt", std::string(4 << 20, 'z'));
  options_.inputs = {root_ / "in"};
  const Report report = run(options_).report;
  EXPECT_EQ(report.counts[size_t(InputProblem::kTooLong)], 3);
  EXPECT_EQ(report.places[size_t(InputProblem::kTooLong)][1].line, 3);
  EXPECT_EQ(all_texts(options_.out, "train").size(), 3u);
}

TEST_F(InputsTest, FailsWhenThereIsNothingToDo) {
  options_.inputs = {root_ / "nowhere"};
  EXPECT_NE(failure(options_).find("nowhere"), std::string::npos);
  fs::create_directories(root_ / "in");
  options_.inputs = {root_ / "in"};
  EXPECT_NE(failure(options_).find("no .txt or .jsonl"), std::string::npos);
  write("in/a.jsonl", "{\"text\": \"\"}\nbroken\n");
  const std::string message = failure(options_, ExitCode::kData, 2);
  EXPECT_NE(message.find("1 broken_json"), std::string::npos) << message;
  EXPECT_NE(message.find("1 empty"), std::string::npos) << message;
  write("odd.pdf", "x");
  options_.inputs = {root_ / "odd.pdf"};
  EXPECT_NE(failure(options_, ExitCode::kUsage).find(".jsonl"), std::string::npos);
}

TEST_F(InputsTest, NamesDomainsByFieldFolderAndFile) {
  write("in/x.jsonl", json_line("one", "named") + json_line("two") +
                          R"({"text": "three", "domain": 7})"
                          "\n" +
                          R"({"text": "four", "domain": null})"
                          "\n");
  write("in/y.jsonl.gz", gzip(json_line("five")));
  write("in/prose/deep/b.txt", "six");
  write("in/direct.txt", "seven");
  write("in/readme.md", "ignored");
  write("given.txt.zst", zstd("eight"));
  options_.inputs = {root_ / "in", root_ / "given.txt.zst", root_ / "in/x.jsonl"};  // x twice: read once
  const Report report = run(options_).report;
  EXPECT_EQ(report.ignored_files, 1);
  EXPECT_EQ(report.counts[size_t(InputProblem::kExactDuplicate)], 0);
  using List = std::vector<std::string>;
  const std::map<std::string, List> expected = {
      {"named", {"one"}}, {"x", {"two", "four"}}, {"7", {"three"}},    {"y", {"five"}},
      {"prose", {"six"}}, {"in", {"seven"}},      {"given", {"eight"}}};
  EXPECT_EQ(texts(options_.out, "train"), expected);
}

TEST_F(InputsTest, ReadsTheFieldsThatOptionsName) {
  write("in/a.jsonl", R"({"body": "one", "source": "s", "text": "no", "uid": 42})"
                      "\n"
                      R"({"body": "", "uid": 43})"
                      "\n");
  options_.inputs = {root_ / "in"};
  options_.text_field = "body";
  options_.domain_field = "source";
  options_.id_field = "uid";
  const Report report = run(options_).report;
  EXPECT_EQ(texts(options_.out, "train").at("s"), std::vector<std::string>{"one"});
  EXPECT_EQ(report.places[size_t(InputProblem::kEmpty)].at(0).id, "43");
}

TEST_F(InputsTest, ReadsSeveralMembersOfAGzipFileAndLinesWithoutAnEnd) {
  std::string cut = json_line("three");
  cut.pop_back();
  write("in/a.jsonl.gz", gzip(json_line("one")) + gzip(json_line("two") + cut));
  write("in/b.jsonl", "\xef\xbb\xbf" + json_line("four") + "{\"text\": \"five\"}\r\n" + R"({"text":"six"})");
  options_.inputs = {root_ / "in"};
  const Report report = run(options_).report;
  EXPECT_EQ(bad_inputs(report), 0);
  EXPECT_EQ(all_texts(options_.out, "train"),
            (std::vector<std::string>{"five", "four", "one", "six", "three", "two"}));
}

TEST_F(InputsTest, ReadsTheSameDocumentsForAnyUnitSize) {
  std::string lines;
  for (uint64_t i = 0; i < 12; ++i) lines += json_line(random_text(i, 3 + static_cast<int>(i % 20)));
  write("in/a.jsonl", lines);
  options_.inputs = {root_ / "in"};
  run(options_);
  const auto expected = texts(options_.out, "train");
  options_.force = true;
  for (const uint64_t bytes : {3, 7, 64, 65, 100, 1000}) {
    options_.unit_bytes = bytes;
    run(options_);
    EXPECT_EQ(texts(options_.out, "train"), expected) << bytes;
  }
}

TEST_F(InputsTest, RefusesImpossibleOptions) {
  options_.inputs = {write("a.txt", "text")};
  const auto refused = [&](auto change) {
    PrepareOptions changed = options_;
    change(changed);
    EXPECT_FALSE(failure(changed, ExitCode::kUsage).empty());
  };
  refused([](PrepareOptions& o) { o.near_duplicates = 1.5; });
  refused([](PrepareOptions& o) { o.valid_fraction = 1; });
  refused([](PrepareOptions& o) { o.memory_bytes = 1 << 20; });
  refused([](PrepareOptions& o) { o.shard_tokens = int64_t(1) << 40; });
  refused([](PrepareOptions& o) { o.id_field = "text"; });
  refused([](PrepareOptions& o) { o.tokenizer = "sentencepiece", o.vocab_size = 100; });
}

}  // namespace
}  // namespace cadre::data
