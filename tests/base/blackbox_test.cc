// What a rank leaves for others to read.
#include "parallel/base/blackbox.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "tests/temp_folder.h"

namespace cadre::base {
namespace {

class Box : public ::testing::Test {
 protected:
  fs::path file() const { return folder_ / box_name(3); }
  const test::TempFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(Box, OutlivesAProcessThatIsKilled) {
  const pid_t pid = fork();
  if (pid == 0) {
    const Blackbox box(file(), 3, 8);
    at_step(41);
    at_step(42);
    enter(Phase::kBackward);
    collective_done(collective_started("all_gather", "first", 10), {});
    collective_started("all_to_all", "tokens of layer 2", 4096);
    remember("last words\n");
    raise(SIGKILL);
  }
  waitpid(pid, nullptr, 0);
  const auto box = read_box(file());
  ASSERT_TRUE(box);
  EXPECT_EQ(box->rank, 3);
  EXPECT_EQ(box->ranks, 8);
  EXPECT_EQ(box->pid, pid);
  EXPECT_EQ(box->step, 42u);
  EXPECT_EQ(box->phase, Phase::kBackward);
  EXPECT_EQ(box->beats, 7u);  // opened, two steps, a phase, begin and end, begin
  ASSERT_EQ(box->collectives.size(), 2u);
  EXPECT_TRUE(box->collectives[0].done);
  EXPECT_FALSE(box->collectives[1].done);
  EXPECT_EQ(box->collectives[1].label, "tokens of layer 2");
  EXPECT_EQ(box->collectives[1].bytes, 4096u);
  EXPECT_EQ(box->lines, std::vector<std::string>{"last words"});
}

TEST_F(Box, KeepsTheNewestCollectivesAndCutsLongTexts) {
  const Blackbox box(file(), 3, 4);
  for (uint64_t i = 1; i <= 100; ++i)
    collective_done(collective_started("all_gather", std::string(500, 'x'), i), {});
  for (int i = 0; i < 50; ++i) remember(fmt::format("line {} {}", i, std::string(1000, 'y')));
  const auto contents = read_box(file());
  ASSERT_TRUE(contents);
  ASSERT_EQ(contents->collectives.size(), kCollectives);
  EXPECT_EQ(contents->collectives.front().number, 100 - kCollectives + 1);
  EXPECT_EQ(contents->collectives.back().bytes, 100u);
  EXPECT_LT(contents->collectives.back().label.size(), 60u);
  EXPECT_TRUE(contents->lines.back().starts_with("line 49 y"));
  EXPECT_LT(contents->lines.back().size(), 300u);
}

TEST_F(Box, TimeSpentWaitingForOthersIsNotBusy) {
  const Blackbox box(file(), 3, 4);
  at_step(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  collective_done(collective_started("all_gather", "x", 1), std::chrono::milliseconds(25));
  at_step(2);
  const double busy = read_box(file())->busy_ms;
  EXPECT_GE(busy, 4.9);  // at least 30 ms went by, of which 25 were waiting
}

TEST_F(Box, HoldsTheLastLinesOfTheLog) {
  const Blackbox box(file(), 3, 4);
  spdlog::warn("the disk is {}", "full");
  EXPECT_NE(read_box(file())->lines.back().find("the disk is full"), std::string::npos);
}

TEST_F(Box, HooksWithoutABoxDoNothing) {
  enter(Phase::kData);
  at_step(1);
  remember("nobody listens");
  EXPECT_EQ(collective_started("all_gather", "x", 1), 0u);
  collective_done(0, {});
}

TEST_F(Box, ADamagedFileIsNothing) {
  EXPECT_FALSE(read_box(file()));
  std::ofstream(file()) << "cadrebx1";
  EXPECT_FALSE(read_box(file()));
  { const Blackbox box(file(), 3, 4); }
  std::fstream(file(), std::ios::in | std::ios::out).put('X');
  EXPECT_FALSE(read_box(file()));
  // Texts without an end and absurd numbers stay inside the file's bytes.
  { const Blackbox box(file(), 3, 4); }
  std::string bytes = read_file(file(), ExitCode::kData);
  std::fill(bytes.begin() + 8, bytes.end(), '\xff');
  std::ofstream(file()) << bytes;
  const auto contents = read_box(file());
  ASSERT_TRUE(contents);
  EXPECT_LE(contents->collectives.size(), kCollectives);
  EXPECT_LE(contents->host.size(), 64u);
  EXPECT_STREQ(name_of(contents->phase), "?");
}

}  // namespace
}  // namespace cadre::base
