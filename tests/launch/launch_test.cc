// The launcher's process handling, with shell scripts in the place of ranks.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "launch/mpirun.h"
#include "launch/supervise.h"
#include "parallel/base/errors.h"
#include "tests/temp_folder.h"

namespace cadre::launch {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class Launch : public testing::Test {
 protected:
  // A launcher in a process of its own, as in real life. The script starts when it makes the file `ready`.
  pid_t launch(Supervised job) {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    dup2(open((folder_ / "stderr").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), STDERR_FILENO);
    int code = 99;
    try {
      code = Supervisor().run(job).code;
    } catch (const Error& error) {
      code = int(error.code());
    }
    _exit(code);
  }
  Supervised script(const std::string& text) {
    Supervised job;
    job.command = {"sh", "-c", "cd " + folder_.string() + "; " + text};
    return job;
  }
  bool appears(const std::string& name) {
    for (int i = 0; i < 1000; ++i) {
      if (fs::exists(folder_ / name)) return true;
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }
  static int end_of(pid_t pid) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // The process whose id the script wrote is gone within ten seconds.
  bool ends(const std::string& pid_file) {
    pid_t pid = 0;
    std::ifstream(folder_ / pid_file) >> pid;
    EXPECT_GT(pid, 0);
    for (int i = 0; i < 1000; ++i) {
      if (kill(pid, 0) != 0) return true;
      std::string state;
      std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
      for (int word = 0; word < 3; ++word) stat >> state;
      if (state == "Z") return true;  // nobody here reaps what init inherits
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

  const test::TempFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

constexpr const char* kLoop =
    "touch ready; i=0; while [ $i -lt 600 ]; do sleep 0.05; i=$((i+1)); done; exit 1";

TEST_F(Launch, ReturnsTheExitCodeOfTheRanks) {
  for (int code : {0, 2, 6, 75}) EXPECT_EQ(end_of(launch(script("exit " + std::to_string(code)))), code);
}

TEST_F(Launch, ReturnsTheSignalThatEndedThem) {
  EXPECT_EQ(end_of(launch(script("kill -SEGV $$"))), 128 + SIGSEGV);
}

TEST_F(Launch, ACommandThatDoesNotExistIsAUsageError) {
  Supervised job;
  job.command = {"/no/such/rank"};
  EXPECT_EQ(end_of(launch(job)), int(ExitCode::kUsage));
}

TEST_F(Launch, RequestsToStopBecomeUsr1) {
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) {
    fs::remove(folder_ / "ready");
    const pid_t pid =
        launch(script(std::string("trap 'exit 75' USR1; trap 'exit 9' TERM INT HUP; ") + kLoop));
    ASSERT_TRUE(appears("ready"));
    kill(pid, signal);
    EXPECT_EQ(end_of(pid), 75) << "signal " << signal;
  }
}

TEST_F(Launch, UserSignalsArePassedOn) {
  for (int signal : {SIGUSR1, SIGUSR2}) {
    fs::remove(folder_ / "ready");
    const pid_t pid = launch(script(std::string("trap 'exit 11' USR1; trap 'exit 12' USR2; ") + kLoop));
    ASSERT_TRUE(appears("ready"));
    kill(pid, signal);
    EXPECT_EQ(end_of(pid), signal == SIGUSR1 ? 11 : 12);
  }
}

TEST_F(Launch, RanksThatDoNotStopAreEndedThenKilled) {
  Supervised job = script(std::string("trap '' USR1; trap 'touch told' TERM; ") + kLoop);
  job.grace = 200ms;
  job.kill_after = 300ms;
  const pid_t pid = launch(job);
  ASSERT_TRUE(appears("ready"));
  kill(pid, SIGTERM);
  EXPECT_EQ(end_of(pid), 128 + SIGKILL);
  EXPECT_TRUE(fs::exists(folder_ / "told")) << "killed without a SIGTERM before";
}

TEST_F(Launch, ASecondRequestDoesNotWaitForTheGracePeriod) {
  const pid_t pid = launch(script(std::string("trap 'touch asked' USR1; trap 'exit 9' TERM; ") + kLoop));
  ASSERT_TRUE(appears("ready"));
  kill(pid, SIGTERM);
  ASSERT_TRUE(appears("asked"));
  kill(pid, SIGTERM);
  EXPECT_EQ(end_of(pid), 9);
}

TEST_F(Launch, AKilledLauncherLeavesNoRanks) {
  const pid_t pid = launch(script(std::string("echo $$ > id; ") + kLoop));
  ASSERT_TRUE(appears("ready"));
  kill(pid, SIGKILL);
  EXPECT_EQ(end_of(pid), -SIGKILL);
  EXPECT_TRUE(ends("id"));
}

TEST_F(Launch, ProcessesLeftOverAreKilled) {
  EXPECT_EQ(end_of(launch(script("setsid sh -c 'echo $$ > id; touch ready; exec sleep 60' & "
                                 "while [ ! -e ready ]; do sleep 0.01; done; exit 3"))),
            3);
  EXPECT_TRUE(ends("id"));
}

TEST_F(Launch, OnlyTheChildsEnvironmentIsChanged) {
  Supervised job =
      script("[ \"$CADRE_TEST_ADDED\" = 'a b' ] && [ \"$HOME\" = /replaced ] && [ -n \"$PATH\" ]");
  job.environment = {{"CADRE_TEST_ADDED", "a b"}, {"HOME", "/replaced"}};
  EXPECT_EQ(end_of(launch(job)), 0);
  EXPECT_EQ(std::getenv("CADRE_TEST_ADDED"), nullptr);
}

TEST(MpirunCommand, OversubscribesOnlyBeyondTheCores) {
  const std::vector<std::string> rank = {"/opt/cadre", "train", "run.yaml"};
  EXPECT_EQ(start_command({.ranks = 1, .cores = 1, .hosts = {}, .on_gpus = false, .gpus = 0}, rank), rank);
  EXPECT_EQ(
      shell_line(start_command({.ranks = 2, .cores = 2, .hosts = {}, .on_gpus = false, .gpus = 0}, rank)),
      "mpirun -np 2 --bind-to none /opt/cadre train run.yaml");
  EXPECT_EQ(
      shell_line(start_command({.ranks = 3, .cores = 2, .hosts = {}, .on_gpus = false, .gpus = 0}, rank)),
      "mpirun -np 3 --bind-to none --oversubscribe /opt/cadre train run.yaml");
  EXPECT_GE(physical_cores(), 1);
}

TEST(MpirunCommand, SaysWhenMpirunIsMissing) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nonexistent", 1);
  try {
    start_command({.ranks = 2, .cores = 2, .hosts = {}, .on_gpus = false, .gpus = 0}, {"cadre"});
    ADD_FAILURE() << "mpirun was found";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("mpirun is not in PATH"), std::string::npos);
  }
  setenv("PATH", path.c_str(), 1);
}

TEST(RankEnvironment, GivesRootThePermissionThatOpenMpiAsksFor) {
  EXPECT_EQ(rank_environment(false).size(), 2u);
  EXPECT_EQ(rank_environment(true).size(), 4u);
}

TEST(ShellLine, QuotesWhatAShellWouldChange) {
  EXPECT_EQ(shell_line({"a", "k=v", "it's {x: 1}", ""}), "a k=v 'it'\\''s {x: 1}' ''");
}

// Through the real mpirun: the request reaches every rank, and their exit code comes back.
TEST_F(Launch, MpirunForwardsTheRequestAndTheExitCode) {
  const std::string rank =
      "cd " + folder_.string() +
      "; trap 'touch got.$OMPI_COMM_WORLD_RANK; sleep 0.5; exit 75' USR1; "
      "touch ready.$OMPI_COMM_WORLD_RANK; i=0; while [ $i -lt 600 ]; do sleep 0.05; i=$((i+1)); done";
  Supervised job;
  job.command =
      start_command({.ranks = 2, .cores = 1, .hosts = {}, .on_gpus = false, .gpus = 0}, {"sh", "-c", rank});
  job.environment = rank_environment(geteuid() == 0);
  const pid_t pid = launch(job);
  ASSERT_TRUE(appears("ready.0"));
  ASSERT_TRUE(appears("ready.1"));
  kill(pid, SIGTERM);
  EXPECT_EQ(end_of(pid), 75);
  EXPECT_TRUE(fs::exists(folder_ / "got.0"));
  EXPECT_TRUE(fs::exists(folder_ / "got.1"));
}

TEST_F(Launch, AKilledLauncherLeavesNoMpirunRanks) {
  const std::string rank = "cd " + folder_.string() +
                           "; echo $$ > id.$OMPI_COMM_WORLD_RANK; "
                           "touch ready.$OMPI_COMM_WORLD_RANK; sleep 60";
  Supervised job;
  job.command =
      start_command({.ranks = 2, .cores = 1, .hosts = {}, .on_gpus = false, .gpus = 0}, {"sh", "-c", rank});
  job.environment = rank_environment(geteuid() == 0);
  const pid_t pid = launch(job);
  ASSERT_TRUE(appears("ready.0"));
  ASSERT_TRUE(appears("ready.1"));
  kill(pid, SIGKILL);
  EXPECT_EQ(end_of(pid), -SIGKILL);
  EXPECT_TRUE(ends("id.0"));
  EXPECT_TRUE(ends("id.1"));
}

}  // namespace
}  // namespace cadre::launch
