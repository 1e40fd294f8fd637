// Watching, restarting and placing ranks: the launcher's decisions.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "launch/gpus.h"
#include "launch/hosts.h"
#include "launch/monitor.h"
#include "launch/mpirun.h"
#include "launch/open_files.h"
#include "launch/restarts.h"
#include "launch/slurm.h"
#include "parallel/base/errors.h"
#include "tests/temp_folder.h"

namespace cadre::launch {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class Jobs : public testing::Test {
 protected:
  // A rank's box as a process leaves it: `steps` steps of `busy` each.
  void rank(int rank, int ranks, uint64_t steps, std::chrono::milliseconds busy = 0ms,
            const char* open_collective = nullptr) {
    const pid_t pid = fork();
    if (pid == 0) {
      const base::Blackbox box(folder_ / base::box_name(rank), rank, ranks);
      for (uint64_t step = 0; step <= steps; ++step) {
        // Waiting less than nothing makes a step busy without taking any time.
        if (step > 0) base::collective_done(base::collective_started("all_gather", "x", 1), -busy);
        base::at_step(step);
      }
      if (open_collective != nullptr) base::collective_started("all_to_all", open_collective, 3'000'000);
      _exit(0);
    }
    waitpid(pid, nullptr, 0);
  }
  Monitor monitor(WatchOptions options) {
    return {folder_, options, [this](const std::string& line) { told_.push_back(line); }};
  }
  const test::TempFolder temporary_;
  const fs::path folder_ = temporary_.path();
  std::vector<std::string> told_;
};

TEST_F(Jobs, StandingStillForTooLongIsAHang) {
  rank(0, 2, 5);
  rank(1, 2, 4);
  Monitor watch = monitor({.hang_seconds = 10});
  const auto start = Monitor::Clock::now();
  EXPECT_EQ(watch.look(start), "");
  EXPECT_EQ(watch.step(), 5u);
  EXPECT_EQ(watch.look(start + 9s), "");
  EXPECT_EQ(watch.look(start + 11s), "no rank has moved for 11 s, at step 5");
  rank(1, 2, 6);  // one that moves is enough
  EXPECT_EQ(watch.look(start + 12s), "");
  EXPECT_EQ(watch.look(start + 21s), "");
  EXPECT_NE(watch.look(start + 23s), "");
  Monitor never = monitor({.hang_seconds = 0});
  EXPECT_EQ(never.look(start + 1000s), "");
}

TEST_F(Jobs, AStragglerIsNamedOnce) {
  for (int r : {0, 2}) rank(r, 3, 3, 1min);
  rank(1, 3, 3, 1h);
  Monitor watch = monitor({.straggler_factor = 3, .straggler_steps = 5});
  (void)watch.look();
  EXPECT_TRUE(told_.empty()) << "slow for too few steps";
  rank(1, 3, 9, 1h);
  (void)watch.look();
  (void)watch.look();
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_NE(told_[0].find("rank 1 on "), std::string::npos) << told_[0];
}

TEST_F(Jobs, ThePostMortemNamesWhatWasWaitedFor) {
  rank(0, 2, 7, 0ms, "gradients of layer 3");
  rank(1, 2, 7);
  const std::string text = post_mortem(read_boxes(folder_), false);
  EXPECT_NE(text.find("step 7, start"), std::string::npos) << text;
  EXPECT_NE(text.find("waited in all_to_all 'gradients of layer 3', 3000.0 kB"), std::string::npos) << text;
  fs::remove(folder_ / base::box_name(0));
  EXPECT_NE(post_mortem(read_boxes(folder_), true).find("rank"), 0u)
      << "without rank 0 their number is unknown";
}

TEST(RestartRules, FinalCodesAreFinal) {
  for (const ExitCode code :
       {ExitCode::kOk, ExitCode::kUsage, ExitCode::kData, ExitCode::kNumeric, ExitCode::kStopped}) {
    EXPECT_FALSE(Restarts({}).after(int(code), 5)) << int(code);
  }
  for (const int code : {1, 4, 5, 137}) EXPECT_TRUE(Restarts({}).after(code, 5)) << code;
}

TEST(RestartRules, TheSameStepTwiceEndsIt) {
  Restarts restarts({});
  EXPECT_TRUE(restarts.after(137, 5));
  EXPECT_TRUE(restarts.after(137, 9));
  EXPECT_FALSE(restarts.after(137, 9));
  EXPECT_EQ(restarts.why_not(), "it failed twice at step 9; not started again");
}

TEST(RestartRules, PausesGrowWithoutProgressUpToALimit) {
  Restarts restarts({.limit = 4, .backoff = 10ms, .longest = 25ms});
  EXPECT_EQ(restarts.after(5, 100), 10ms);
  EXPECT_EQ(restarts.after(5, 90), 20ms);
  EXPECT_EQ(restarts.after(5, 80), 25ms);
  EXPECT_EQ(restarts.after(5, 120), 10ms);
  EXPECT_FALSE(restarts.after(5, 130));
  EXPECT_EQ(restarts.why_not(), "--restarts 4 is used up");
  EXPECT_FALSE(Restarts({.limit = 0}).after(5, 1));
}

TEST_F(Jobs, HostFilesAreReadStrictly) {
  std::ofstream(folder_ / "hosts") << "# two\nnode-1.lan slots=4\n\nnode2  # one slot\n";
  const std::vector<Host> hosts = read_hosts(folder_ / "hosts");
  EXPECT_EQ(hosts, (std::vector<Host>{{"node-1.lan", 4}, {"node2", 1}}));
  EXPECT_EQ(total_slots(hosts), 5);
  for (const char* line :
       {"a slots=0", "a slots=x", "a b", "-oProxyCommand=x", "a;b", "a slots=2 more", ""}) {
    std::ofstream(folder_ / "hosts") << line;
    EXPECT_THROW(read_hosts(folder_ / "hosts"), Error) << line;
  }
}

TEST_F(Jobs, HostsThatDoNotAnswerAreLeftOut) {
  // An ssh that reaches only node2, and whose login to node3 hangs.
  std::ofstream(folder_ / "ssh") << "#!/bin/sh\nfor word; do [ \"$word\" = node2 ] && exit 0; "
                                    "[ \"$word\" = node3 ] && exec sleep 60; done; exit 255\n";
  fs::permissions(folder_ / "ssh", fs::perms::owner_all);
  const std::string path = std::getenv("PATH");
  setenv("PATH", (folder_.string() + ":" + path).c_str(), 1);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(reachable({{"node1", 4}, {"node3", 4}, {"node2", 2}, {"localhost", 1}}, 5s),
            (std::vector<Host>{{"node2", 2}, {"localhost", 1}}));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
  setenv("PATH", path.c_str(), 1);
}

TEST(OpenFiles, AreAsManyAsTheSystemAllows) {
  const pid_t pid = fork();
  if (pid == 0) {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) _exit(2);
    limit.rlim_cur = 64;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) _exit(3);
    raise_open_files();
    rlimit raised{};
    const rlim_t expected = std::min(limit.rlim_max, rlim_t(kMostOpenFiles));
    _exit(getrlimit(RLIMIT_NOFILE, &raised) == 0 && raised.rlim_cur == expected ? 0 : 1);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(ElasticRanks, AreTheMostThatFit) {
  const Elastic elastic = read_elastic("2:8");
  EXPECT_EQ(elastic_ranks(elastic, 16, 1), 8);
  EXPECT_EQ(elastic_ranks(elastic, 7, 2), 6);
  EXPECT_EQ(elastic_ranks(elastic, 1, 1), 0);
  EXPECT_EQ(elastic_ranks(elastic, 3, 4), 0);
  for (const char* text : {"", "2", "8:2", "0:4", "a:b", ":"})
    EXPECT_THROW(read_elastic(text), Error) << text;
}

TEST(StartCommand, NamesHostsAndStarters) {
  const std::vector<std::string> rank = {"/opt/cadre", "train", "run.yaml"};
  EXPECT_EQ(shell_line(start_command(
                {.ranks = 3, .cores = 2, .hosts = {{"a", 2}, {"b", 1}}, .on_gpus = false, .gpus = 0}, rank)),
            "mpirun -np 3 --bind-to none --host a:2,b:1 -x OPENBLAS_NUM_THREADS -x OMP_NUM_THREADS "
            "/opt/cadre train run.yaml");
  EXPECT_EQ(describe_places({.ranks = 2, .cores = 4, .hosts = {}, .on_gpus = false, .gpus = 0}, 0),
            "2 ranks on this host with 4 cores: 2 threads each");
}

TEST_F(Jobs, GpusAreCountedAsCudaReadsThem) {
  EXPECT_EQ(count_gpus(nullptr, folder_), 0);
  for (const char* name : {"nvidia0", "nvidia1", "nvidiactl", "nvidia3"}) std::ofstream(folder_ / name) << "";
  EXPECT_EQ(count_gpus(nullptr, folder_), 2);
  EXPECT_EQ(count_gpus("", folder_), 0);
  EXPECT_EQ(count_gpus("3,GPU-8932f937,5", folder_), 3);
  EXPECT_EQ(count_gpus("1,-1,2", folder_), 1);
}

TEST(StartCommand, SaysWhichRankTakesWhichGpu) {
  StartOptions start{.ranks = 2, .cores = 4, .hosts = {}, .on_gpus = true, .gpus = 4};
  EXPECT_EQ(describe_places(start, 2),
            "2 ranks on this host with 4 cores: 2 threads each; rank 0 on GPU 0, rank 1 on GPU 1 of 4");
  start.hosts = {{"a", 1}, {"b", 1}};
  EXPECT_EQ(describe_places(start, 2),
            "2 ranks over the slots of a (1), b (1); each takes the GPU of its number on its host");
}

TEST(BatchScript, RanksShareTheCoresOfTheSmallestNode) {
  EXPECT_EQ(cores_of_rank("64\n32+\n", 4), 8);
  EXPECT_EQ(cores_of_rank("48\n", 5), 9);
  EXPECT_EQ(cores_of_rank("", 4), 0);
  EXPECT_EQ(cores_of_rank("n/a\n", 4), 0);
}

TEST_F(Jobs, ASlurmThatDoesNotAnswerSaysNothing) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", folder_.c_str(), 1);
  EXPECT_EQ(node_cpus("main"), "") << "without sinfo";
  std::ofstream(folder_ / "sinfo")
      << "#!/bin/sh\n[ \"$3\" = --partition=main ] && echo 16 && exit 0\necho 8; exit 1\n";
  fs::permissions(folder_ / "sinfo", fs::perms::owner_all);
  EXPECT_EQ(node_cpus("main"), "16\n");
  EXPECT_EQ(node_cpus("other"), "");
  setenv("PATH", path.c_str(), 1);
}

TEST(BatchScript, HoldsWhatWasAskedForAndQuotesTheRest) {
  SlurmOptions options;
  options.ranks = 4;
  options.nodes = 2;
  options.partition = "gpu";
  options.time = "1-00:00:00";
  options.sbatch_flags = {"--container=/images/cadre.sqsh"};
  const std::string script = batch_script(options, {"/opt/cadre", "launch", "a b;rm -rf x.yaml"});
  for (const char* line :
       {"#SBATCH --nodes=2\n", "#SBATCH --ntasks-per-node=2\n", "#SBATCH --partition=gpu\n",
        "#SBATCH --time=1-00:00:00\n", "#SBATCH --signal=B:USR1@120\n", "#SBATCH --requeue\n",
        "#SBATCH --container=/images/cadre.sqsh\n", "\n/opt/cadre launch 'a b;rm -rf x.yaml' &\n"}) {
    EXPECT_NE(script.find(line), std::string::npos) << line << script;
  }
  options.account = "x\n#SBATCH --uid=0";
  EXPECT_THROW(batch_script(options, {"c"}), Error);
  options.account = "";
  options.ranks = 3;
  EXPECT_THROW(batch_script(options, {"c"}), Error);
}

}  // namespace
}  // namespace cadre::launch
