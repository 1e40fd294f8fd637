#include <gtest/gtest.h>

#include "parallel/base/rng.h"
#include "parallel/comm/shards.h"
#include "tests/comm/checks.h"

namespace cadre::comm {
namespace {

using device::Group;

device::ParamTable small_model() {
  device::ParamTable table;
  const auto add = [&](std::string name, std::vector<int64_t> shape, Group group, int bucket,
                       device::Update update) {
    device::ParamRow row;
    row.name = std::move(name);
    row.shape = std::move(shape);
    row.group = group;
    row.bucket = bucket;
    row.update = update;
    table.add(std::move(row));
  };
  using enum device::Update;
  add("embed", {37, 6}, Group::kDense, 0, kElement);
  add("0.norm", {5}, Group::kDense, 1, kElement);
  add("0.wq", {6, 7}, Group::kDense, 1, kMatrix);
  add("0.w_gate", {8, 3, 6}, Group::kExpert, 1, kMatrix);
  add("0.w_down", {8, 6, 3}, Group::kExpert, 1, kElement);
  add("1.tiny", {1}, Group::kDense, 2, kElement);  // fewer elements than ranks
  add("1.w_gate", {8, 3, 6}, Group::kExpert, 2, kMatrix);
  return table;
}

// The gradient of a global element on one world rank. Not inlined: its product would be fused with the sum
// below.
template <class T>
[[gnu::noinline]] T gradient(int world_rank, int row, int64_t element, int round) {
  const base::Philox random(base::mix(uint64_t(world_rank), uint64_t(row * 10 + round)));
  return T(random.normal(uint64_t(element)) * 100);
}

template <class T>
T naive_sum(Communicator& group, int first_rank, int stride, int row, int64_t element, int round) {
  T sum = gradient<T>(first_rank, row, element, round);
  for (int r = 1; r < group.size(); ++r) sum += gradient<T>(first_rank + r * stride, row, element, round);
  return sum;
}

template <class T>
class GradientCheck {
 public:
  GradientCheck(World& world, int ep, int zero)
      : mesh_(world, {ep, 1, zero}),
        table_(small_model()),
        layout_(table_, ep, mesh_.expert().rank()),
        store_(layout_, device::DeviceKind::kCpu),
        dense_(layout_, Group::kDense, mesh_.data().size(), zero),
        expert_(layout_, Group::kExpert, mesh_.replicas().size(), zero),
        reducer_(mesh_, store_, dense_, expert_) {}

  void run(int round) {
    fill_gradients(round);
    for (int bucket = table_.num_buckets() - 1; bucket >= 0; --bucket) {
      reducer_.add(bucket);
      reducer_.progress();
    }
    device::CpuQueue queue(1);
    for (int bucket = table_.num_buckets() - 1; round == 0 && bucket >= 0; --bucket)
      reducer_.need_sums(bucket, queue);
    if (round > 0) reducer_.finish(queue);
    for (const Piece& piece : dense_.pieces(mesh_.data().rank())) {
      check_sums(piece, mesh_.data(), 0, 1, round);
    }
    for (const Piece& piece : expert_.pieces(mesh_.replicas().rank())) {
      check_sums(piece, mesh_.replicas(), mesh_.expert().rank(), mesh_.config().ep, round);
    }
    reducer_.finish(queue);
    update_own_slices();
    for (int bucket = 0; bucket < table_.num_buckets(); ++bucket) reducer_.gather_values(bucket);
    for (int bucket = 0; bucket < table_.num_buckets(); ++bucket) reducer_.need_values(bucket, queue);
    check_values();
  }

 private:
  template <class Visit>
  void each_element(Visit visit) {
    for (int row = 0; row < int(table_.rows().size()); ++row) {
      const device::Placement& place = layout_.at(row);
      for (int64_t i = 0; i < place.count; ++i)
        visit(row, place.group, place.offset + i, place.global_begin + i);
    }
  }
  void fill_gradients(int round) {
    each_element([&](int row, Group group, int64_t at, int64_t element) {
      store_.grads(group)[at] = gradient<T>(mesh_.world().rank(), row, element, round);
      store_.values(group)[at] = -1;
    });
  }
  void check_sums(const Piece& piece, Communicator& comm, int first, int stride, int round) {
    const device::Placement& place = layout_.at(piece.row);
    for (int64_t i = 0; i < piece.count; ++i) {
      const int64_t element = place.global_begin + piece.row_begin + i;
      ASSERT_EQ(store_.grads(place.group)[piece.group_offset + i],
                naive_sum<T>(comm, first, stride, piece.row, element, round))
          << table_.row(piece.row).name << " element " << element << ", ep " << mesh_.config().ep;
    }
  }
  void update_own_slices() {
    const auto update = [&](const ShardPlan& plan, const Communicator& comm) {
      for (const Piece& piece : plan.pieces(comm.rank())) {
        const device::Placement& place = layout_.at(piece.row);
        for (int64_t i = 0; i < piece.count; ++i) {
          store_.values(place.group)[piece.group_offset + i] =
              T(piece.row * 1000 + place.global_begin + piece.row_begin + i);
        }
      }
    };
    update(dense_, mesh_.data());
    update(expert_, mesh_.replicas());
  }
  void check_values() {
    each_element([&](int row, Group group, int64_t at, int64_t element) {
      ASSERT_EQ(store_.values(group)[at], T(row * 1000 + element))
          << table_.row(row).name << " element " << element;
    });
  }

  Mesh mesh_;
  device::ParamTable table_;
  device::ParamLayout layout_;
  device::ParamStore<T> store_;
  ShardPlan dense_, expert_;
  GradReducer<T> reducer_;
};

}  // namespace

void check_mesh(World& world) {
  for (int ep : {1, 2, 4, 8}) {
    if (world.size() % ep != 0) {
      EXPECT_THROW(Mesh(world, {ep, 1, 1}), Error) << "ep " << ep;
      continue;
    }
    const Mesh mesh(world, {ep, 1, 1});
    const int me = world.rank();
    EXPECT_EQ(mesh.data().size(), world.size());
    EXPECT_EQ(mesh.data().rank(), me);
    EXPECT_EQ(mesh.expert().size(), ep);
    EXPECT_EQ(mesh.expert().rank(), me % ep);
    EXPECT_EQ(mesh.replicas().size(), world.size() / ep);
    EXPECT_EQ(mesh.replicas().rank(), me / ep);
    const auto experts = mesh.expert().gather_texts(std::to_string(me), "who");
    for (int r = 0; r < ep; ++r) EXPECT_EQ(experts[r], std::to_string(me / ep * ep + r));
    const auto replicas = mesh.replicas().gather_texts(std::to_string(me), "who");
    for (int r = 0; r < world.size() / ep; ++r) EXPECT_EQ(replicas[r], std::to_string(me % ep + r * ep));
  }
}

void check_gradients(World& world) {
  for (int ep : {1, 2, 4}) {
    if (world.size() % ep != 0) continue;
    for (int zero : {0, 1}) {
      GradientCheck<float> floats(world, ep, zero);
      GradientCheck<double> doubles(world, ep, zero);
      for (int round = 0; round < 3; ++round) {
        floats.run(round);
        doubles.run(round);
      }
    }
  }
}

}  // namespace cadre::comm
