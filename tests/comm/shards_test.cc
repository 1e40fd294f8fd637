#include "parallel/comm/shards.h"

#include <gtest/gtest.h>

#include "parallel/base/rng.h"

namespace cadre::comm {
namespace {

using device::Group;
using device::Update;

// A random model: any number of buckets (some without rows of a group), shapes and kinds of row.
device::ParamTable random_table(uint64_t seed, int num_experts) {
  const base::Philox random(seed);
  uint64_t counter = 0;
  const auto below = [&](int64_t n) { return int64_t(random.bits(counter++) % uint64_t(n)); };
  device::ParamTable table;
  const int rows = 1 + int(below(12));
  int bucket = 0;
  for (int i = 0; i < rows; ++i) {
    device::ParamRow row;
    row.name = "row" + std::to_string(i);
    row.group = below(2) ? Group::kExpert : Group::kDense;
    row.update = below(2) ? Update::kMatrix : Update::kElement;
    if (row.group == Group::kExpert) row.shape.push_back(num_experts);
    row.shape.push_back(1 + below(40));
    row.shape.push_back(1 + below(40));
    bucket += int(below(3));
    row.bucket = bucket;
    table.add(row);
  }
  return table;
}

void check_plan(const device::ParamLayout& layout, Group group, int ranks) {
  const ShardPlan plan(layout, group, ranks, 1);
  std::vector<int> owners(layout.group_size(group), 0);
  int64_t states = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    int64_t state_offset = 0, last_offset = -1;
    for (const Piece& piece : plan.pieces(rank)) {
      const device::ParamRow& row = layout.table().row(piece.row);
      ASSERT_GT(piece.count, 0);
      ASSERT_EQ(piece.row_begin % row.matrix_numel(), 0) << row.name << " is cut within a matrix";
      ASSERT_EQ(piece.count % row.matrix_numel(), 0) << row.name << " is cut within a matrix";
      ASSERT_EQ(piece.group_offset, layout.at(piece.row).offset + piece.row_begin);
      ASSERT_GT(piece.group_offset, last_offset);
      ASSERT_EQ(piece.state_offset, state_offset);
      ASSERT_GE(piece.group_offset, plan.cuts(row.bucket)[rank]);
      ASSERT_LE(piece.group_offset + piece.count, plan.cuts(row.bucket)[rank + 1]);
      last_offset = piece.group_offset;
      state_offset += piece.count;
      for (int64_t i = 0; i < piece.count; ++i) ++owners[piece.group_offset + i];
    }
    ASSERT_EQ(plan.state_size(rank), state_offset);
    states += state_offset;
  }
  ASSERT_EQ(owners, std::vector<int>(owners.size(), 1)) << "every element has one owner";
  ASSERT_EQ(states, layout.group_size(group));
}

TEST(ShardPlan, CoversEverythingOnceAndCutsNoMatrix) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const device::ParamTable table = random_table(seed, 4);
    for (int ep : {1, 2, 4}) {
      const device::ParamLayout layout(table, ep, ep - 1);
      for (int ranks : {1, 2, 3, 4, 7, 16}) {
        for (Group group : {Group::kDense, Group::kExpert}) {
          check_plan(layout, group, ranks);
          ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << " ep " << ep << " ranks " << ranks;
        }
      }
    }
  }
}

TEST(ShardPlan, SharesElementsEvenly) {
  device::ParamTable table;
  device::ParamRow row;
  row.name = "w";
  row.shape = {1003};
  table.add(row);
  const device::ParamLayout layout(table, 1, 0);
  const ShardPlan plan(layout, Group::kDense, 4, 1);
  EXPECT_EQ(plan.cuts(0), (std::vector<int64_t>{0, 251, 502, 753, 1003}));
}

TEST(ShardPlan, WithoutZeroEveryRankOwnsEverything) {
  const device::ParamTable table = random_table(5, 4);
  const device::ParamLayout layout(table, 2, 0);
  for (Group group : {Group::kDense, Group::kExpert}) {
    const ShardPlan plan(layout, group, 4, 0);
    for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(plan.state_size(rank), layout.group_size(group));
  }
}

}  // namespace
}  // namespace cadre::comm
