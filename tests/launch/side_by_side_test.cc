// Processes of --jobs, with shell scripts in their place.
#include "launch/side_by_side.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>

#include "launch/gpus.h"
#include "parallel/base/errors.h"
#include "tests/temp_folder.h"

namespace cadre::launch {
namespace {

using namespace std::chrono_literals;
using Codes = std::vector<int>;

class SideBySideJobs : public testing::Test {
 protected:
  // $1 is "I/N".
  SideBySide script(const std::string& text, int count) const {
    return {.command = {"/bin/sh", "-c", "cd " + folder_.path().string() + "; " + text}, .count = count};
  }
  std::string text_of(const char* file) const {
    std::ostringstream text;
    text << std::ifstream(folder_.path() / file).rdbuf();
    return text.str();
  }
  bool appears(const char* file) const {
    for (int i = 0; i < 1000 && !std::filesystem::exists(folder_.path() / file); ++i)
      std::this_thread::sleep_for(10ms);
    return std::filesystem::exists(folder_.path() / file);
  }
  test::TempFolder folder_;
};

TEST_F(SideBySideJobs, SayWhoTheyAreInFrontOfEveryLine) {
  SideBySide jobs = script("echo one $1; echo two $PLACE >&2; printf end; exit ${1%/*}", 3);
  jobs.environment = {{"PLACE=a"}, {"PLACE=b"}, {"PLACE=c"}};
  testing::internal::CaptureStdout();
  const Codes codes = run_side_by_side(jobs);
  const std::string out = testing::internal::GetCapturedStdout();
  EXPECT_EQ(codes, (Codes{1, 2, 3}));
  for (const char* line : {"[job 2] one 2/3\n", "[job 3] two c\n", "[job 2] end\n"})
    EXPECT_NE(out.find(line), std::string::npos) << out;
  EXPECT_LT(out.find("[job 1] one 1/3\n"), out.find("[job 1] two a\n")) << out;
  EXPECT_LT(out.find("[job 1] two a\n"), out.find("[job 1] end\n")) << out;
}

TEST_F(SideBySideJobs, ASignalThatEndsOneLeavesTheOthers) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const Codes codes = run_side_by_side(script("[ $1 = 2/2 ] || kill -KILL $$; sleep 0.2; echo there", 2));
  EXPECT_EQ(codes, (Codes{128 + SIGKILL, 0}));
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "[job 2] there\n");
  EXPECT_NE(testing::internal::GetCapturedStderr().find("job 1 was ended by signal 9"), std::string::npos);
}

// Also when a thread of the process holds nothing back, as those of libraries.
TEST_F(SideBySideJobs, AreAllAskedToStop) {
  const pid_t parent = fork();
  if (parent == 0) {
    std::thread idle([] {
      while (true) pause();
    });
    dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
    dup2(STDOUT_FILENO, STDERR_FILENO);
    const Codes codes = run_side_by_side(
        script("trap 'echo $1 >>stopped; exit 75' TERM; : >ready${1%/*}; while :; do sleep 0.02; done", 2));
    _exit(common_code(codes));
  }
  ASSERT_TRUE(appears("ready1") && appears("ready2"));
  kill(parent, SIGTERM);
  int status = 0;
  waitpid(parent, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 75);
  EXPECT_EQ(text_of("stopped").size(), 8u) << text_of("stopped");
}

TEST_F(SideBySideJobs, ThatCannotBeStartedAreOneError) {
  SideBySide jobs = script("true", 2);
  jobs.command[0] = "/nowhere/cadre";
  EXPECT_THROW(run_side_by_side(jobs), Error);
}

TEST(CommonCode, IsThatOfTheWorkAndNotOfWhoDidIt) {
  EXPECT_EQ(common_code({137, 0}), 0) << "another one made what the killed one left";
  EXPECT_EQ(common_code({75, 75}), 75);
  EXPECT_EQ(common_code({75, 6}), 6);
  EXPECT_EQ(common_code({139, 6, 2}), 6);
  EXPECT_EQ(common_code({137, 75}), 75);
  EXPECT_EQ(common_code({137, 139}), 137);
}

TEST(OneGpuEach, TakesThemInTurnWhenThereAreSeveral) {
  using Environment = std::vector<std::vector<std::string>>;
  EXPECT_EQ(
      one_gpu_each(name_gpus("4,GPU-8f"), 3),
      (Environment{{"CUDA_VISIBLE_DEVICES=4"}, {"CUDA_VISIBLE_DEVICES=GPU-8f"}, {"CUDA_VISIBLE_DEVICES=4"}}));
  EXPECT_EQ(one_gpu_each(name_gpus("4"), 3), Environment());
}

}  // namespace
}  // namespace cadre::launch
