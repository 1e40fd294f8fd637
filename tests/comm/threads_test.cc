#include <gtest/gtest.h>

#include <chrono>

#include "tests/comm/checks.h"

namespace cadre::comm {
namespace {

class Threads : public testing::TestWithParam<int> {};

TEST_P(Threads, AllToAllMovesUnevenAndEmptyParts) {
  run_threads(GetParam(), check_all_to_all);
}
TEST_P(Threads, AllGatherTakesUnevenAndEmptyParts) {
  run_threads(GetParam(), check_all_gather);
}
TEST_P(Threads, BroadcastReachesAllFromEveryRoot) {
  run_threads(GetParam(), check_broadcast);
}
TEST_P(Threads, AllReduceAddsInRankOrderToTheBit) {
  run_threads(GetParam(), check_all_reduce);
}
TEST_P(Threads, ReduceScatterAddsInRankOrderToTheBit) {
  run_threads(GetParam(), check_reduce_scatter);
}
TEST_P(Threads, CallsMatchInOrderAndCompleteInAnyOrder) {
  run_threads(GetParam(), check_overlapping_calls);
}
TEST_P(Threads, CountsTextsAndBarriersArrive) {
  run_threads(GetParam(), check_small_verbs);
}
TEST_P(Threads, AllRanksHearOfOneRanksError) {
  run_threads(GetParam(), check_agreement);
}
TEST_P(Threads, MeshGroupsHoldTheRightRanks) {
  run_threads(GetParam(), check_mesh);
}
TEST_P(Threads, ReducedGradientsEqualANaiveSumAndValuesReachAll) {
  run_threads(GetParam(), check_gradients);
}
TEST_P(Threads, ARankThatDoesNotComeIsNamedAfterTheTimeout) {
  if (GetParam() > 1) run_threads(GetParam(), check_timeout);
}
INSTANTIATE_TEST_SUITE_P(Ranks, Threads, testing::Values(1, 2, 3, 4, 8));

std::string error_of(int ranks, const std::function<void(World&)>& body) {
  const auto start = std::chrono::steady_clock::now();
  try {
    run_threads(ranks, body);
  } catch (const std::exception& error) {
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20))
        << "the others were not released";
    return error.what();
  }
  return "no error";
}

TEST(ThreadWorld, AThrowingRankReleasesTheOthersAndItsErrorIsTheOneReported) {
  for (int thrower : {0, 1, 3}) {
    const std::string error = error_of(4, [&](World& world) {
      const auto comm = world.everyone("all");
      comm->barrier("start");
      if (world.rank() == thrower) throw Error(ExitCode::kNumeric, "loss is not finite");
      comm->barrier("never");
    });
    EXPECT_EQ(error, "loss is not finite");
  }
}

TEST(ThreadWorld, OfSeveralErrorsTheLowestRanksIsReported) {
  const std::string error =
      error_of(3, [&](World& world) { throw Error(ExitCode::kData, fmt::format("rank {}", world.rank())); });
  EXPECT_EQ(error, "rank 0");
}

TEST(ThreadWorld, CallsThatDoNotMatchAreNamed) {
  const std::string counts = error_of(2, [](World& world) {
    const auto comm = world.everyone("all");
    std::vector<float> data(size_t(3 + world.rank()));
    comm->all_reduce(std::span(data), ReduceOp::kSum, "lengths differ");
  });
  EXPECT_NE(counts.find("'lengths differ'"), std::string::npos) << counts;
  const std::string verbs = error_of(2, [](World& world) {
    const auto comm = world.everyone("all");
    int64_t value = 0;
    if (world.rank() == 0) comm->broadcast(&value, 1, 0, Dtype::kInt64, "one").wait();
    if (world.rank() == 1) comm->all_reduce(value, ReduceOp::kSum, "another");
  });
  EXPECT_NE(verbs.find("'one'"), std::string::npos) << verbs;
  EXPECT_NE(verbs.find("'another'"), std::string::npos) << verbs;
}

TEST(ThreadWorld, AbortReleasesWaitingRanks) {
  const std::string error = error_of(2, [](World& world) {
    const auto comm = world.everyone("all");
    if (world.rank() == 0) return world.abort(5);
    comm->barrier("never");
  });
  EXPECT_NE(error.find("another rank failed"), std::string::npos) << error;
}

TEST(MakeWorld, IsOneRankWithoutMpirun) {
  const auto world = make_world(nullptr, nullptr);
  EXPECT_EQ(world->size(), 1);
  EXPECT_EQ(world->rank(), 0);
  EXPECT_EQ(world->local_size(), 1);
  check_all_reduce(*world);
  check_gradients(*world);
}

std::string mesh_error(const std::string& text) {
  try {
    read_mesh(base::parse_run_text(text, "run.yaml", {}).section("mesh"));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    return error.what();
  }
  return "no error";
}

TEST(ReadMesh, IsStrict) {
  EXPECT_EQ(mesh_error("mesh: {ep: 4, cp: 2, zero: 0}"), "no error");
  EXPECT_EQ(mesh_error("mesh: {ep: 0}"),
            "run.yaml:1: mesh.ep: found '0', expected an integer from 1 to 1048576");
  EXPECT_EQ(mesh_error("mesh:\n  cp: 0"),
            "run.yaml:2: mesh.cp: found '0', expected an integer from 1 to 1048576");
  EXPECT_EQ(mesh_error("mesh: {zero: 4}"),
            "run.yaml:1: mesh.zero: found '4', expected an integer from 0 to 3");
  EXPECT_EQ(mesh_error("mesh: {epp: 2}"), "run.yaml:1: mesh.epp: unknown key, did you mean 'ep'?");
}

TEST(Mesh, SaysWhatToChangeWhenTheDegreeDoesNotFit) {
  const std::string error = error_of(3, [](World& world) { Mesh(world, {2, 1, 1}); });
  EXPECT_NE(error.find("found 3 ranks and mesh.ep = 2"), std::string::npos) << error;
  EXPECT_NE(error.find("change mesh.ep"), std::string::npos) << error;
  const std::string context = error_of(3, [](World& world) { Mesh(world, {1, 2, 1}); });
  EXPECT_NE(context.find("found 3 ranks and mesh.cp = 2"), std::string::npos) << context;
}

}  // namespace
}  // namespace cadre::comm
