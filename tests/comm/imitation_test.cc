// Ranks that are not there: sums are those of ranks that all have the same, and groups have the sizes of the real ones.
#include <gtest/gtest.h>

#include <numeric>

#include "parallel/comm/mesh.h"
#include "parallel/comm/transports.h"

namespace cadre::comm {
namespace {

TEST(ImitatedWorld, GroupsHaveTheSizesOfRealOnes) {
  const auto world = make_imitated_world(24);
  const Mesh mesh(*world, {.ep = 4, .cp = 2});
  EXPECT_EQ(mesh.data().size(), 24);
  EXPECT_EQ(mesh.expert().size(), 4);
  EXPECT_EQ(mesh.replicas().size(), 6);
  EXPECT_EQ(mesh.context().size(), 2);
  EXPECT_EQ(mesh.row_ranks(), 12);
  EXPECT_EQ(world->everyone("all")->size(), 24);
  const Mesh alone(*world, {.ep = 1});
  EXPECT_FALSE(alone.expert().imitation()) << "a group of one rank lacks nobody";
}

TEST(ImitatedWorld, SumsAreThoseOfRanksThatHaveTheSame) {
  const int ranks = 8;
  const auto comm = make_imitated_world(ranks)->everyone("all");
  for (const int64_t count : {1, 100, 20001}) {  // both sides of the limit between the two ways to reduce
    std::vector<double> data(static_cast<size_t>(count));
    std::iota(data.begin(), data.end(), 1);
    std::vector<double> sum = data, most = data;
    comm->all_reduce(std::span(sum), ReduceOp::kSum, "sum");
    comm->all_reduce(std::span(most), ReduceOp::kMax, "most");
    for (size_t i = 0; i < data.size(); ++i) ASSERT_EQ(sum[i], ranks * data[i]) << count;
    EXPECT_EQ(most, data);
  }
  const std::vector<int64_t> cuts = {0, 3, 5, 5, 5, 6, 7, 9, 10};
  std::vector<float> grads(10);
  std::iota(grads.begin(), grads.end(), 1);
  const std::vector<float> before = grads;
  comm->reduce_scatter<float>(grads.data(), cuts, grads.data(), "gradients").wait();
  for (size_t i = 0; i < grads.size(); ++i) EXPECT_EQ(grads[i], i < 3 ? ranks * before[i] : before[i]) << i;
}

TEST(ImitatedWorld, AGatherInPlaceLeavesTheValuesOfOthers) {
  const auto comm = make_imitated_world(3)->everyone("all");
  const std::vector<int64_t> counts = {2, 0, 3}, displs = {0, 2, 2};
  std::vector<int32_t> all = {1, 2, 3, 4, 5};
  comm->all_gather(all.data(), 2, all.data(), counts, displs, Dtype::kInt32, "values").wait();
  EXPECT_EQ(all, (std::vector<int32_t>{1, 2, 3, 4, 5}));
  const std::vector<int32_t> own = {7, 8};
  comm->all_gather(own.data(), 2, all.data(), counts, displs, Dtype::kInt32, "values").wait();
  EXPECT_EQ(all, (std::vector<int32_t>{7, 8, 7, 8, 5}));
}

TEST(ImitatedWorld, TextsCountsAndErrorsAreThisRanks) {
  const auto comm = make_imitated_world(3)->everyone("all");
  EXPECT_EQ(comm->gather_texts("here", "texts"), std::vector<std::string>(3, "here"));
  EXPECT_EQ(comm->exchange_counts(std::vector<int64_t>{4, 5, 6}, "counts"), (std::vector<int64_t>{4, 5, 6}));
  comm->barrier("nobody waits");
  EXPECT_THROW(comm->agree("no room", ExitCode::kUsage, "memory"), Error);
}

}  // namespace
}  // namespace cadre::comm
