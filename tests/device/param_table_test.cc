#include "parallel/device/param_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"

namespace cadre::device {
namespace {

ParamRow row(std::string name, std::vector<int64_t> shape, Group group, int bucket, Init init = {}) {
  ParamRow r;
  r.name = std::move(name);
  r.shape = std::move(shape);
  r.group = group;
  r.bucket = bucket;
  r.init = init;
  return r;
}

ParamTable small_table() {
  ParamTable table;
  table.add(row("embed", {11, 4}, Group::kDense, 0));
  table.add(row("layers.0.norm", {4}, Group::kDense, 1, {Init::kOnes}));
  table.add(row("layers.0.w_gate", {4, 3, 4}, Group::kExpert, 1, {Init::kNormal, 0.5}));
  table.add(row("layers.0.w_down", {4, 4, 3}, Group::kExpert, 1));
  table.add(row("layers.1.w_gate", {4, 3, 4}, Group::kExpert, 2));
  table.add(row("head", {11, 4}, Group::kDense, 3, {Init::kZeros}));
  return table;
}

TEST(ParamTable, KnowsItsRows) {
  const ParamTable table = small_table();
  EXPECT_EQ(table.num_buckets(), 4);
  EXPECT_EQ(table.find("layers.0.w_down"), 3);
  EXPECT_EQ(table.find("layers.0"), -1);
  EXPECT_EQ(table.numel(), 44 + 4 + 48 * 3 + 44);
}

TEST(ParamTable, RefusesWrongRows) {
  ParamTable table = small_table();
  EXPECT_THROW(table.add(row("embed", {2}, Group::kDense, 3)), Error) << "same name";
  EXPECT_THROW(table.add(row("late", {2}, Group::kDense, 2)), Error) << "falling bucket";
  EXPECT_THROW(table.add(row("flat", {}, Group::kDense, 3)), Error);
  EXPECT_THROW(table.add(row("zero", {3, 0}, Group::kDense, 3)), Error);
  ParamRow vector = row("vector", {8}, Group::kDense, 3);
  vector.update = Update::kMatrix;
  EXPECT_THROW(table.add(vector), Error);
}

TEST(ParamLayout, PlacesRowsOneAfterTheOtherByGroupAndBucket) {
  const ParamTable table = small_table();
  const ParamLayout layout(table, 2, 1);
  EXPECT_EQ(layout.group_size(Group::kDense), 92);
  EXPECT_EQ(layout.group_size(Group::kExpert), 72);
  EXPECT_EQ(layout.at(5).offset, 48);
  EXPECT_EQ(layout.at(3).offset, 24);
  EXPECT_EQ(layout.at(3).global_begin, 24);
  EXPECT_EQ(layout.at(3).count, 24);
  EXPECT_EQ(layout.bucket(Group::kDense, 1).begin, 44);
  EXPECT_EQ(layout.bucket(Group::kDense, 1).end, 48);
  EXPECT_EQ(layout.bucket(Group::kDense, 2).size(), 0);
  EXPECT_EQ(layout.bucket(Group::kExpert, 1).end, 48);
  EXPECT_EQ(layout.bucket(Group::kExpert, 2).begin, 48);
}

TEST(ParamLayout, NamesExpertsThatTheDegreeDoesNotDivide) {
  const ParamTable table = small_table();
  try {
    ParamLayout(table, 3, 0);
    FAIL() << "4 experts over 3 ranks";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("4 experts, which mesh.ep = 3 does not divide"),
              std::string::npos);
  }
}

// Collects a tensor's global elements from the ranks of an expert degree.
template <class T>
std::map<std::string, std::vector<T>> global_values(const ParamTable& table, int ep, uint64_t seed) {
  std::map<std::string, std::vector<T>> all;
  for (int rank = 0; rank < ep; ++rank) {
    const ParamLayout layout(table, ep, rank);
    ParamStore<T> store(layout, DeviceKind::kCpu, false);
    store.initialize(seed);
    for (size_t i = 0; i < table.rows().size(); ++i) {
      const Placement& place = layout.at(int(i));
      std::vector<T>& values = all[table.row(int(i)).name];
      values.resize(table.row(int(i)).numel());
      const T* from = store.values(place.group).data() + place.offset;
      const ElementOrder order = layout.order(int(i));
      for (int64_t e = 0; e < place.count; ++e) values[size_t(order.plain(place.global_begin + e))] = from[e];
    }
  }
  return all;
}

TEST(ElementOrder, CountsPartAfterPart) {
  const ElementOrder order({2, 6, 3}, 1, 2);
  int64_t next = 0;
  for (int64_t part = 0; part < 2; ++part)
    for (int64_t a = 0; a < 2; ++a)
      for (int64_t b = 0; b < 3; ++b)
        for (int64_t c = 0; c < 3; ++c, ++next) {
          const int64_t plain = (a * 6 + part * 3 + b) * 3 + c;
          ASSERT_EQ(order.plain(next), plain);
          ASSERT_EQ(order.from_plain(plain), next);
          ASSERT_EQ(order.run_from(next), 9 - b * 3 - c);
        }
  EXPECT_EQ(ElementOrder({2, 6, 3}, 0, 2), ElementOrder({2, 6, 3}, 2, 1)) << "both plain";
  EXPECT_EQ(ElementOrder({2, 6, 3}, 0, 2).run_from(7), 29);
}

TEST(ParamStore, PartsOfAWidthAreThoseOfTheWholeModel) {
  ParamTable table;
  table.add(row("w_gate", {3, 8, 5}, Group::kExpert, 0));
  table.add(row("w_down", {3, 5, 8}, Group::kExpert, 0));
  const auto whole = global_values<float>(table, 1, 7);
  ParamTable split;
  for (ParamRow r : table.rows()) {
    r.split_axis = r.name == "w_gate" ? 1 : 2;
    split.add(r);
  }
  EXPECT_EQ(whole, global_values<float>(split, 2, 7));
  EXPECT_EQ(whole, global_values<float>(split, 4, 7));
  const ParamLayout layout(split, 2, 1);
  ParamStore<float> store(layout, DeviceKind::kCpu, false);
  store.initialize(7);
  const auto gate = store.value<3>(0), down = store.value<3>(1);
  ASSERT_EQ(gate.shape(), (std::array<int64_t, 3>{3, 4, 5}));
  ASSERT_EQ(down.shape(), (std::array<int64_t, 3>{3, 5, 4}));
  for (int64_t e = 0; e < 3; ++e)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t d = 0; d < 5; ++d) {
        EXPECT_EQ(gate[e][h][d], whole.at("w_gate")[size_t((e * 8 + 4 + h) * 5 + d)]);
        EXPECT_EQ(down[e][d][h], whole.at("w_down")[size_t((e * 5 + d) * 8 + 4 + h)]);
      }
}

TEST(ParamStore, StartsFromTheSameModelForEveryExpertDegree) {
  const ParamTable table = small_table();
  const auto whole = global_values<float>(table, 1, 7);
  EXPECT_EQ(whole, global_values<float>(table, 2, 7));
  EXPECT_EQ(whole, global_values<float>(table, 4, 7));
  EXPECT_NE(whole, global_values<float>(table, 1, 8));
  EXPECT_NE(whole.at("layers.0.w_gate"), whole.at("layers.1.w_gate"));
  EXPECT_EQ(whole.at("layers.0.norm"), std::vector<float>(4, 1.0f));
  EXPECT_EQ(whole.at("head"), std::vector<float>(44, 0.0f));
  const base::Philox random(base::mix(7, base::hash_name("layers.0.w_gate")));
  EXPECT_EQ(whole.at("layers.0.w_gate")[29], float(random.normal(29) * 0.5));
}

TEST(ParamStore, NormalInitHasTheAskedSpread) {
  ParamTable table;
  table.add(row("w", {200, 200}, Group::kDense, 0, {Init::kNormal, 0.1}));
  const auto values = global_values<double>(table, 1, 3).at("w");
  double sum = 0, squares = 0;
  for (double v : values) sum += v, squares += v * v;
  EXPECT_NEAR(sum / 40000, 0, 4 * 0.1 / 200);  // four standard errors
  EXPECT_NEAR(std::sqrt(squares / 40000), 0.1, 0.002);
}

TEST(ParamStore, ViewsHaveLocalShapesAndShareTheFlatBuffer) {
  const ParamTable table = small_table();
  const ParamLayout layout(table, 2, 0);
  ParamStore<double> store(layout, DeviceKind::kCpu);
  const auto w = store.value<3>(3);
  EXPECT_EQ(w.shape(), (std::array<int64_t, 3>{2, 4, 3}));
  EXPECT_EQ(w.data(), store.values(Group::kExpert).data() + 24);
  store.grad<2>(5)[10][3] = 5;
  EXPECT_EQ(store.grads(Group::kDense)[91], 5);
  store.zero_grads();
  EXPECT_EQ(store.grads(Group::kDense)[91], 0);
  EXPECT_TRUE(ParamStore<float>(layout, DeviceKind::kCpu, false).grads(Group::kDense).empty());
}

// A bucket of the middle never stands where one stands that is within three of it; ends have places of their own.
TEST(Turns, NeighboursStandApart) {
  std::vector<int64_t> sizes;
  for (int b = 0; b < 12; ++b) sizes.push_back(10 + 7 * (b % 5));
  const Turns turns(sizes);
  for (int a = 0; a < 12; ++a) {
    EXPECT_LE(turns.begin(a) + sizes[size_t(a)], turns.size());
    for (int b = 0; b < a; ++b) {
      const bool apart = turns.begin(a) >= turns.begin(b) + sizes[size_t(b)] ||
                         turns.begin(b) >= turns.begin(a) + sizes[size_t(a)];
      EXPECT_EQ(apart, b == 0 || a == 11 || (a - b) % Turns::kInTurn != 0) << a << " and " << b;
    }
  }
  EXPECT_LE(turns.size(), 6 * 64);
  EXPECT_EQ(Turns(std::vector<int64_t>{5}).size(), 64);
}

// Masters in slices: of an element that another rank updates a rank knows the rounded value alone.
TEST(ParamStore, ShardedMastersHoldWhatTheRankUpdates) {
  ParamTable table;
  table.add(row("a", {10}, Group::kDense, 0));
  table.add(row("b", {3, 4}, Group::kDense, 1));
  const ParamLayout layout(table, 1, 0);
  StoreParts parts;
  Sharding& dense = parts.shardings[int(Group::kDense)];
  dense.owned = {{4, 0, 3}, {12, 3, 6}};
  dense.masters = true;
  ParamStore<bf16> store(layout, DeviceKind::kCpu, parts);
  StoreParts whole;
  EXPECT_EQ(ParamStore<bf16>(layout, DeviceKind::kCpu, whole).bytes() - store.bytes(), (22 - 9) * 4u);
  CpuQueue queue(1);
  std::vector<float> values(22), found(22);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 1 + 0.001f * float(i);
  store.set(queue, Group::kDense, 0, values);
  store.get(queue, Group::kDense, 0, found);
  for (size_t i = 0; i < values.size(); ++i) {
    const bool own = (i >= 4 && i < 7) || (i >= 12 && i < 18);
    EXPECT_EQ(found[i], own ? values[i] : float(bf16(values[i]))) << i;
  }
  EXPECT_EQ(store.own_masters(Group::kDense, dense.owned[1].part(2, 4))[0], values[14]);
}

}  // namespace
}  // namespace cadre::device
