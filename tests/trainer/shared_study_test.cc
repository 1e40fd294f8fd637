// Several processes at work on one study: who makes what, who waits for what, and what a killed one leaves.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "parallel/base/file_lock.h"
#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/run/stop.h"
#include "trainer/study/run_files.h"
#include "trainer/study/study.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;
using trainer::testing::TempFolder;

// The log's lines as long as it lives.
class LogLines {
 public:
  LogLines() : before_(spdlog::default_logger()) {
    auto logger =
        std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
    logger->set_pattern("%v");
    spdlog::set_default_logger(std::move(logger));
  }
  ~LogLines() { spdlog::set_default_logger(before_); }
  // Once nobody logs any more.
  std::vector<std::string> that_begin_with(const std::string& start) const {
    std::istringstream in(text_.str());
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with(start)) lines.push_back(line);
    }
    return lines;
  }

 private:
  std::shared_ptr<spdlog::logger> before_;
  std::ostringstream text_;
};

class SharedStudy : public testing::Test {
 protected:
  // Runs that start from others, and from others' weights, with two seeds each.
  static constexpr const char* kRuns =
      "  variants:\n"
      "    first: {mixer: {name: temperature, tau: 3}}\n"
      "    average: {mixer: {name: file, path: \"average:first\"}}\n"
      "    longer: {init: \"run:first\", train.steps: 4}\n"
      "  axes: {seed: [1, 2]}\n"
      "  set: {train.steps: 6}\n";

  void SetUp() override { std::ofstream(folder_.path() / "run.yaml") << trainer::testing::kTinyRun; }

  StudyConfig study() const {
    const std::string text =
        fmt::format("study:\n  base: run.yaml\n  out: {}\n{}", (folder_.path() / "out").string(), kRuns);
    return read_study(
        base::parse_run_text(text, (folder_.path() / "study.yaml").string(), {}).section("study"));
  }
  // One process's part, as `ranks` ranks.
  ExitCode work(int ranks = 1) const {
    static const trainer::Dataset dataset = trainer::testing::tiny_dataset();
    ExitCode code = ExitCode::kOk;
    comm::run_threads(ranks, [&](comm::World& world) {
      const StudyConfig config = study();
      const ExitCode ended =
          run_study(config, world, {.train = {.measure_peak = false}, .dataset = &dataset});
      if (world.rank() == 0) code = ended;
    });
    return code;
  }
  // Every file that says what came out.
  std::string outcome() const {
    std::string all = base::read_file(folder_.path() / "out/results.json", ExitCode::kData);
    for (const StudyRun& run : study().runs)
      all += base::read_file(folder_of(study(), run.name) / "result.json", ExitCode::kData);
    return all;
  }
  // What one process alone makes of it.
  std::string made_alone() {
    EXPECT_EQ(work(), ExitCode::kOk);
    const std::string all = outcome();
    fs::remove_all(folder_.path() / "out");
    return all;
  }
  TempFolder folder_;
};

TEST_F(SharedStudy, MakesEachRunOnceAndWhatOneProcessWouldHaveMade) {
  const std::string alone = made_alone();
  const LogLines log;
  std::vector<std::thread> processes;
  for (int i = 0; i < 3; ++i) processes.emplace_back([&] { EXPECT_EQ(work(), ExitCode::kOk); });
  for (std::thread& t : processes) t.join();
  EXPECT_EQ(outcome(), alone);
  const auto made = log.that_begin_with("run ");
  EXPECT_EQ(made.size(), 6u);
  EXPECT_EQ(std::set(made.begin(), made.end()).size(), 6u);
  // None began before the run that it starts from.
  const auto place = [&](const std::string& run) {
    return std::find_if(made.begin(), made.end(), [&](const auto& line) { return line.ends_with(run); });
  };
  for (const char* seed : {",seed=1", ",seed=2"}) {
    EXPECT_LT(place(std::string("first") + seed), place(std::string("average") + seed));
    EXPECT_LT(place(std::string("first") + seed), place(std::string("longer") + seed));
  }
  EXPECT_FALSE(fs::exists(folder_of(study(), "first,seed=1") / "checkpoints")) << "nobody needs it any more";
}

TEST_F(SharedStudy, RanksOfOneProcessGroupShareWithAnother) {
  const LogLines log;
  std::thread other([&] { EXPECT_EQ(work(2), ExitCode::kOk); });
  EXPECT_EQ(work(2), ExitCode::kOk);
  other.join();
  const auto made = log.that_begin_with("run ");
  EXPECT_EQ(made.size(), 6u);
  EXPECT_EQ(std::set(made.begin(), made.end()).size(), 6u);
}

TEST_F(SharedStudy, TakesOverTheRunOfAKilledProcessAtItsCheckpoint) {
  const std::string alone = made_alone();
  trainer::request_stop(true);
  EXPECT_EQ(work(), ExitCode::kStopped);  // one step of the first run
  trainer::request_stop(false);
  const fs::path claimed = folder_of(study(), "first,seed=1");
  ASSERT_TRUE(fs::exists(claimed / "checkpoints/step-00000001"));
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t process = fork();
  if (process == 0) {
    const auto lock = base::FileLock::take(claimed / "claim");
    (void)!write(ends[1], lock ? "y" : "n", 1);
    while (true) pause();
  }
  char taken = 0;
  ASSERT_EQ(read(ends[0], &taken, 1), 1);
  ASSERT_EQ(taken, 'y');
  const LogLines log;
  std::thread other([&] { EXPECT_EQ(work(), ExitCode::kOk); });
  // Everything with the other seed can be made meanwhile, and nothing with this one.
  const fs::path last = folder_of(study(), "longer,seed=2") / "result.json";
  for (int i = 0; i < 6000 && !fs::exists(last); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(fs::exists(last));
  for (const char* name : {"first,seed=1", "average,seed=1", "longer,seed=1"})
    EXPECT_FALSE(fs::exists(folder_of(study(), name) / "result.json")) << name;
  kill(process, SIGKILL);
  waitpid(process, nullptr, 0);
  other.join();
  close(ends[0]), close(ends[1]);
  EXPECT_EQ(outcome(), alone);
  EXPECT_EQ(log.that_begin_with("resumed from " + claimed.string()).size(), 1u);
}

// Another process ends the first run after this one found no result and before it has the lock: a lease on the lock's file
// holds its opening up until then.
TEST_F(SharedStudy, ARunThatEndedWhileItsLockWasTakenIsNotMadeAgain) {
  const StudyConfig config = study();
  const fs::path folder = folder_of(config, config.runs[0].name);
  fs::create_directories(folder);
  const int claim = open((folder / "claim").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(claim, 0);
  const auto before = std::signal(SIGIO, SIG_IGN);  // what the kernel sends to the lease's holder
  if (fcntl(claim, F_SETLEASE, F_WRLCK) != 0) {
    close(claim);
    GTEST_SKIP() << "this file system has no leases";
  }
  int64_t next = -1;
  std::atomic<bool> ended = false;
  std::thread other([&] {
    Claims claims(config);
    next = claims.next();
    ended = true;
  });
  while (fcntl(claim, F_GETLEASE) == F_WRLCK && !ended)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_FALSE(ended) << "it has to open the file";
  const StudyRun& run = config.runs[0];
  save_result(config, {.name = run.name, .cell = run.cell, .seed = run.seed});
  close(claim);
  other.join();
  std::signal(SIGIO, before);
  ASSERT_GT(next, 0);
  EXPECT_EQ(config.runs[size_t(next)].name, "first,seed=2");
}

TEST_F(SharedStudy, CanBeStoppedWhileItWaits) {
  for (const char* name : {"first,seed=1", "first,seed=2"}) fs::create_directories(folder_of(study(), name));
  const auto one = base::FileLock::take(folder_of(study(), "first,seed=1") / "claim");
  const auto two = base::FileLock::take(folder_of(study(), "first,seed=2") / "claim");
  trainer::request_stop(true);
  EXPECT_EQ(work(2), ExitCode::kStopped);
  trainer::request_stop(false);
  EXPECT_FALSE(fs::exists(folder_.path() / "out/results.json"));
}

}  // namespace
}  // namespace cadre::study
