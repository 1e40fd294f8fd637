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
  // Enough buckets for places to be taken twice where they take turns; one has no experts, one nothing else.
  add("2.wq", {4, 5}, Group::kDense, 3, kMatrix);
  add("3.w_gate", {8, 5, 6}, Group::kExpert, 4, kMatrix);
  add("4.wq", {9, 3}, Group::kDense, 5, kElement);
  add("4.w_gate", {8, 2, 5}, Group::kExpert, 5, kMatrix);
  add("5.wq", {7, 6}, Group::kDense, 6, kMatrix);
  add("head", {11, 6}, Group::kDense, 7, kElement);
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
        dense_(layout_, Group::kDense, mesh_.data().size(), zero),
        expert_(layout_, Group::kExpert, mesh_.replicas().size(), zero),
        store_(layout_, device::DeviceKind::kCpu, shard_store({}, mesh_, dense_, expert_)),
        reducer_(mesh_, store_, dense_, expert_) {}

  void run(int round) {
    device::CpuQueue queue(1);
    for (int bucket = table_.num_buckets() - 1; bucket >= 0; --bucket) {
      reducer_.start_backward(bucket, queue);
      if (round > 0) check_values(bucket, round - 1);
      fill_gradients(bucket, round);
      reducer_.add(bucket);
      reducer_.progress();
    }
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
    update_own_slices(round);
    for (int bucket = 0; bucket < table_.num_buckets(); ++bucket) reducer_.gather_values(bucket);
    for (int bucket = 0; bucket < table_.num_buckets(); ++bucket) {
      reducer_.need_values(bucket, queue);
      check_values(bucket, round);
    }
  }

 private:
  // Calls visit(row, element of the global tensor, this rank's memory of it).
  template <class Visit>
  void each_element(int bucket, bool values, Visit visit) {
    for (int row = 0; row < int(table_.rows().size()); ++row) {
      if (table_.row(row).bucket != bucket) continue;
      const device::Placement& place = layout_.at(row);
      const auto memory =
          values ? store_.bucket_values(place.group, bucket) : store_.bucket_grads(place.group, bucket);
      const int64_t begin = place.offset - layout_.bucket(place.group, bucket).begin;
      for (int64_t i = 0; i < place.count; ++i) visit(row, place.global_begin + i, memory[begin + i]);
    }
  }
  void fill_gradients(int bucket, int round) {
    each_element(bucket, false, [&](int row, int64_t element, T& grad) {
      grad = gradient<T>(mesh_.world().rank(), row, element, round);
    });
  }
  void check_sums(const Piece& piece, Communicator& comm, int first, int stride, int round) {
    const device::Placement& place = layout_.at(piece.row);
    for (int64_t i = 0; i < piece.count; ++i) {
      const int64_t element = place.global_begin + piece.row_begin + i;
      ASSERT_EQ(store_.own_grads(place.group, piece.range())[i],
                naive_sum<T>(comm, first, stride, piece.row, element, round))
          << table_.row(piece.row).name << " element " << element << ", ep " << mesh_.config().ep;
    }
  }
  void update_own_slices(int round) {
    const auto update = [&](const ShardPlan& plan, const Communicator& comm) {
      for (const Piece& piece : plan.pieces(comm.rank())) {
        const device::Placement& place = layout_.at(piece.row);
        for (int64_t i = 0; i < piece.count; ++i) {
          store_.own_values(place.group, piece.range())[i] =
              value(piece.row, place.global_begin + piece.row_begin + i, round);
        }
      }
    };
    update(dense_, mesh_.data());
    update(expert_, mesh_.replicas());
  }
  static T value(int row, int64_t element, int round) { return T(round * 100000 + row * 1000 + element); }
  void check_values(int bucket, int round) {
    each_element(bucket, true, [&](int row, int64_t element, T& found) {
      ASSERT_EQ(found, value(row, element, round)) << table_.row(row).name << " element " << element;
    });
  }

  Mesh mesh_;
  device::ParamTable table_;
  device::ParamLayout layout_;
  ShardPlan dense_, expert_;
  device::ParamStore<T> store_;
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
    for (int zero : {0, 1, 2, 3}) {
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
