// The checks of threads_test.cc between ranks that meet over TCP. Threads stand for the processes: nothing of a world is
// shared between them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <thread>

#include "parallel/comm/tcp_socket.h"
#include "parallel/comm/transports.h"
#include "tests/comm/checks.h"

namespace cadre::comm {
namespace {

constexpr auto kTimeout = std::chrono::seconds(60);

std::string meeting_file() {
  static int count = 0;
  return (std::filesystem::temp_directory_path() / fmt::format("cadre-tcp-{}-{}", ::getpid(), ++count))
      .string();
}

// Runs body on every rank; returns the ranks' errors.
std::vector<std::string> run_tcp(int ranks, const std::string& meeting,
                                 const std::function<void(World&)>& body) {
  std::vector<std::string> errors(static_cast<size_t>(ranks));
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const auto world = make_tcp_world(rank, ranks, meeting, kTimeout);
        body(*world);
      } catch (const std::exception& error) {
        errors[size_t(rank)] = error.what();
      }
    });
  }
  threads.clear();
  return errors;
}
void expect_good(int ranks, const std::function<void(World&)>& body) {
  for (const std::string& error : run_tcp(ranks, "file:" + meeting_file(), body)) EXPECT_EQ(error, "");
}

class Tcp : public testing::TestWithParam<int> {};
TEST_P(Tcp, AllToAllMovesUnevenAndEmptyParts) {
  expect_good(GetParam(), check_all_to_all);
}
TEST_P(Tcp, AllGatherTakesUnevenAndEmptyParts) {
  expect_good(GetParam(), check_all_gather);
}
TEST_P(Tcp, BroadcastReachesAllFromEveryRoot) {
  expect_good(GetParam(), check_broadcast);
}
TEST_P(Tcp, AllReduceAddsInRankOrderToTheBit) {
  expect_good(GetParam(), check_all_reduce);
}
TEST_P(Tcp, ReduceScatterAddsInRankOrderToTheBit) {
  expect_good(GetParam(), check_reduce_scatter);
}
TEST_P(Tcp, CallsMatchInOrderAndCompleteInAnyOrder) {
  expect_good(GetParam(), check_overlapping_calls);
}
TEST_P(Tcp, CountsTextsAndBarriersArrive) {
  expect_good(GetParam(), check_small_verbs);
}
TEST_P(Tcp, AllRanksHearOfOneRanksError) {
  expect_good(GetParam(), check_agreement);
}
TEST_P(Tcp, MeshGroupsHoldTheRightRanks) {
  expect_good(GetParam(), check_mesh);
}
TEST_P(Tcp, ReducedGradientsEqualANaiveSumAndValuesReachAll) {
  expect_good(GetParam(), check_gradients);
}
INSTANTIATE_TEST_SUITE_P(Ranks, Tcp, testing::Values(1, 2, 4));

TEST(TcpWorld, MeetsAtAnAddressAndCountsTheRanksOfAHost) {
  const int port = port_of(listen_on("0"));  // free a moment ago
  const auto errors = run_tcp(3, fmt::format("127.0.0.1:{}", port), [](World& world) {
    EXPECT_EQ(world.size(), 3);
    EXPECT_EQ(world.local_size(), 3);
    EXPECT_EQ(world.local_rank(), world.rank());
    world.everyone("all")->barrier("meet");
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(TcpWorld, TheFileIsGoneWhenAllHaveMet) {
  const std::string file = meeting_file();
  for (const std::string& error : run_tcp(2, "file:" + file, [](World&) {})) EXPECT_EQ(error, "");
  EXPECT_FALSE(std::filesystem::exists(file));
}

// The others are told at once, not after the time-out of a minute.
TEST(TcpWorld, ARankThatLeavesIsNamed) {
  const auto start = std::chrono::steady_clock::now();
  const auto errors = run_tcp(3, "file:" + meeting_file(), [](World& world) {
    const auto all = world.everyone("all");
    all->barrier("start");
    if (world.rank() == 1) throw Error(ExitCode::kNumeric, "gone");
    all->barrier("end");
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_EQ(errors[1], "gone");
  for (const size_t rank : {size_t(0), size_t(2)}) {
    EXPECT_NE(errors[rank].find("all_gather 'end' on communicator 'all'"), std::string::npos) << errors[rank];
    EXPECT_NE(errors[rank].find("rank 1 on"), std::string::npos) << errors[rank];
  }
}

TEST(TcpWorld, ARankThatNeverComesEndsTheMeeting) {
  try {
    make_tcp_world(1, 2, "file:" + meeting_file(), std::chrono::milliseconds(50));
    FAIL() << "met nobody";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kComm);
    EXPECT_NE(std::string(error.what()).find("rank 0 did not leave its address"), std::string::npos)
        << error.what();
  }
}

// A rank that Slurm or a script names: 'x' was rank 0, and so was every other that had a typo.
TEST(MakeWorld, ANumberOfTheEnvironmentIsAWholeNumber) {
  ::setenv("CADRE_MASTER", "localhost:1", 1);
  ::setenv("CADRE_RANKS", "2", 1);
  for (const char* wrong : {"x", "1x", "", " 1", "99999999999"}) {
    ::setenv("CADRE_RANK", wrong, 1);
    try {
      make_world(nullptr, nullptr);
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(
          std::string(error.what()).find(fmt::format("CADRE_RANK is '{}', expected a whole number", wrong)),
          std::string::npos)
          << error.what();
    }
  }
  for (const char* name : {"CADRE_MASTER", "CADRE_RANKS", "CADRE_RANK"}) ::unsetenv(name);
}

TEST(MeshConfig, ATimeoutFitsAClock) {
  EXPECT_EQ(read_mesh(base::parse_run_text("timeout_s: 1e8", "test", {})).timeout_s, 1e8);
  for (const char* wrong : {"timeout_s: 1e9", "timeout_s: 0", "timeout_s: .inf"})
    EXPECT_THROW(read_mesh(base::parse_run_text(wrong, "test", {})), Error) << wrong;
}

}  // namespace
}  // namespace cadre::comm
