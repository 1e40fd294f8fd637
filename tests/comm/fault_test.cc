// Ranks that are lost: the others end soon, and mpirun's exit code says why.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <string>

namespace {

struct Ended {
  int code = -1;
  std::string output;
  double seconds = 0;
};

Ended run_ranks(const std::string& way) {
  const auto start = std::chrono::steady_clock::now();
  Ended ended;
  FILE* pipe = popen((CADRE_MPIRUN " -np 4 " CADRE_FAULT_RANK " " + way + " 2>&1").c_str(), "r");
  std::array<char, 4096> block;
  while (std::fgets(block.data(), block.size(), pipe) != nullptr) ended.output += block.data();
  const int status = pclose(pipe);
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ended.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return ended;
}

TEST(Faults, WithoutAnyTheRanksEndWell) {
  EXPECT_EQ(run_ranks("none").code, 0);
}

TEST(Faults, AbortEndsEveryRankWithItsExitCode) {
  const Ended ended = run_ranks("abort");
  EXPECT_EQ(ended.code, 6) << ended.output;
  EXPECT_LT(ended.seconds, 30);
}

TEST(Faults, AKilledRankEndsTheOthers) {
  const Ended ended = run_ranks("kill");
  EXPECT_NE(ended.code, 0) << ended.output;
  EXPECT_LT(ended.seconds, 30);
}

TEST(Faults, AHangingRankEndsAsOneLineThatNamesTheCollective) {
  const Ended ended = run_ranks("hang");
  EXPECT_EQ(ended.code, 5) << ended.output;
  EXPECT_NE(ended.output.find("'gradients of step 7' on communicator 'data', rank "), std::string::npos)
      << ended.output;
  EXPECT_LT(ended.seconds, 30);
}

}  // namespace
