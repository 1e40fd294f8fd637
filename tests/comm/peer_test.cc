// Peer memory between threads of one process.
#include "parallel/comm/peer_memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <span>
#include <thread>

#include "parallel/base/errors.h"
#include "parallel/comm/mesh.h"

namespace cadre::comm {
namespace {

constexpr size_t kBytes = 1024;

int64_t* numbers(const PeerMemory& peers, int rank) {
  return reinterpret_cast<int64_t*>(peers.at(rank));
}

void run_peers(int ranks, const std::function<void(PeerMemory&, device::Queue&)>& body) {
  run_threads(ranks, [&](World& world) {
    Mesh mesh(world, {.ep = ranks});
    device::CpuQueue queue(1);
    body(mesh.expert_peers(), queue);
  });
}

class Peers : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Peers, testing::Values(1, 2, 4, 8));

// Two parts in turns, as its users do: under tsan this also says that no read meets a write.
TEST_P(Peers, RoundsShowWhatEveryRankWroteBeforeItsSignal) {
  run_peers(GetParam(), [](PeerMemory& peers, device::Queue& queue) {
    peers.reserve(queue, kBytes);
    for (int64_t round = 0; round < 40; ++round) {
      const int64_t part = round % 2;
      numbers(peers, peers.rank())[part] = 1000 * round + peers.rank();
      peers.signal(queue, "test", 8);
      peers.await(queue);
      for (int r = 0; r < peers.size(); ++r) ASSERT_EQ(numbers(peers, r)[part], 1000 * round + r);
    }
  });
}

// Rounds of the second lane overtake those of the first, and copies bring what was signalled.
TEST_P(Peers, LanesHaveRoundsOfTheirOwn) {
  run_peers(GetParam(), [](PeerMemory& peers, device::Queue& queue) {
    peers.reserve(queue, kBytes);
    for (int64_t round = 0; round < 40; ++round) {
      int64_t* own = numbers(peers, peers.rank());
      own[round % 2] = 1000 * round + peers.rank();
      peers.signal(queue, "first", 8);
      own[2 + round % 2] = -own[round % 2];
      peers.signal(queue, "second", 8, 1);
      peers.await(queue, 1);
      for (int r = 0; r < peers.size(); ++r) ASSERT_EQ(numbers(peers, r)[2 + round % 2], -1000 * round - r);
      peers.await(queue);
      for (int r = 0; r < peers.size(); ++r) {
        int64_t copy = -1;
        peers.copy(queue, &copy, numbers(peers, r) + round % 2, sizeof copy);
        ASSERT_EQ(copy, 1000 * round + r);
      }
    }
  });
}

TEST_P(Peers, ALargerRegionTakesThePlaceOfASmallerOne) {
  run_peers(GetParam(), [](PeerMemory& peers, device::Queue& queue) {
    for (const size_t bytes : {kBytes, kBytes / 2, 100 * kBytes}) {
      peers.want(bytes);
      peers.reserve(queue, bytes);
      // Other boundaries of users one after the other.
      peers.enter(queue, bytes / 2);
      peers.enter(queue, bytes / 4);
      for (int64_t& number : std::span(numbers(peers, peers.rank()), bytes / 8)) number = peers.rank();
      peers.signal(queue, "test", bytes);
      peers.await(queue);
      for (int r = 0; r < peers.size(); ++r) EXPECT_EQ(numbers(peers, r)[bytes / 8 - 1], r);
    }
    EXPECT_EQ(peers.wanted(), 100 * kBytes);
  });
}

// Rank 1 is slow to read what rank 0 wrote above a boundary; rank 0 goes on to write below another one, in the same place.
TEST(PeerMemory, UsersOfOtherBoundariesDoNotWriteOverWhatIsRead) {
  std::atomic<bool> written = false;
  run_peers(2, [&](PeerMemory& peers, device::Queue& queue) {
    peers.reserve(queue, kBytes);
    peers.enter(queue, 256);
    for (const int64_t place : {0, 64}) {  // below, then above
      numbers(peers, peers.rank())[place] = 7;
      peers.signal(queue, "test", 8);
      peers.await(queue);
    }
    if (peers.rank() == 1) {
      for (int i = 0; i < 50 && !written; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT_EQ(numbers(peers, 0)[64], 7);
    }
    peers.enter(queue, 768);
    numbers(peers, peers.rank())[64] = 8;
    written = true;
    peers.signal(queue, "test", 8);
    peers.await(queue);
    EXPECT_EQ(numbers(peers, 1 - peers.rank())[64], 8);
  });
}

TEST(PeerMemory, ImitationIsOwnMemoryAndWaitsForNobody) {
  run_threads(2, [](World& world) {
    Mesh mesh(world, {.ep = 2});
    PeerMemory& peers = mesh.expert_peers();
    device::CpuQueue queue(1);
    peers.reserve(queue, kBytes);
    mesh.set_tensor_imitation(true);
    for (int round = 0; round <= peers.rank(); ++round) {  // not as many on both ranks
      peers.signal(queue, "test", 8);
      peers.await(queue);
      EXPECT_EQ(peers.at(0), peers.at(1));
    }
    mesh.set_tensor_imitation(false);
    peers.signal(queue, "test", 8);
    peers.await(queue);
    EXPECT_NE(peers.at(0), peers.at(1));
  });
}

// A rank that stays away: the others end with the code for lost ranks, soon after the time-out, and name it.
TEST(PeerMemory, ARankThatDoesNotComeIsNamedAfterTheTimeout) {
  const auto start = std::chrono::steady_clock::now();
  try {
    run_threads(3, [](World& world) {
      Mesh mesh(world, {.ep = 3});
      PeerMemory& peers = mesh.expert_peers();
      device::CpuQueue queue(1);
      peers.reserve(queue, kBytes);
      mesh.expert().set_timeout(std::chrono::milliseconds(200));
      if (peers.rank() == 1) fail(ExitCode::kData, "gone");
      peers.signal(queue, "test", 8);
      try {
        peers.await(queue);
        ADD_FAILURE() << "came without rank 1";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kComm);
        EXPECT_EQ(std::string(error.what()), "rank 1 did not come within 200 ms");
        throw;
      }
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kComm);  // the lowest rank's
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

}  // namespace
}  // namespace cadre::comm
