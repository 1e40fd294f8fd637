// The checks of threads_test.cc between the processes that mpirun started.
#include <gtest/gtest.h>

#include "tests/comm/checks.h"

namespace cadre::comm {
namespace {

World* g_world = nullptr;  // of main

TEST(Mpi, AllToAllMovesUnevenAndEmptyParts) {
  check_all_to_all(*g_world);
}
TEST(Mpi, AllGatherTakesUnevenAndEmptyParts) {
  check_all_gather(*g_world);
}
TEST(Mpi, BroadcastReachesAllFromEveryRoot) {
  check_broadcast(*g_world);
}
TEST(Mpi, AllReduceAddsInRankOrderToTheBit) {
  check_all_reduce(*g_world);
}
TEST(Mpi, ReduceScatterAddsInRankOrderToTheBit) {
  check_reduce_scatter(*g_world);
}
TEST(Mpi, CallsMatchInOrderAndCompleteInAnyOrder) {
  check_overlapping_calls(*g_world);
}
TEST(Mpi, CountsTextsAndBarriersArrive) {
  check_small_verbs(*g_world);
}
TEST(Mpi, AllRanksHearOfOneRanksError) {
  check_agreement(*g_world);
}
TEST(Mpi, MeshGroupsHoldTheRightRanks) {
  check_mesh(*g_world);
}
TEST(Mpi, ReducedGradientsEqualANaiveSumAndValuesReachAll) {
  check_gradients(*g_world);
}
TEST(Mpi, ARankThatDoesNotComeIsNamedAfterTheTimeout) {
  check_timeout(*g_world);
}
TEST(Mpi, AllRanksAreOnThisHost) {
  EXPECT_EQ(g_world->local_size(), g_world->size());
}

}  // namespace
}  // namespace cadre::comm

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto world = cadre::comm::make_world(&argc, &argv);
  cadre::comm::g_world = world.get();
  if (world->size() < 2) {
    std::fprintf(stderr, "start me under mpirun -np 2 or more\n");
    return 1;
  }
  if (world->rank() != 0) testing::GTEST_FLAG(brief) = true;  // failures only
  return RUN_ALL_TESTS();
}
