// NCCL's communicators between the processes that mpirun started, one GPU each. Skipped where there are fewer GPUs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "parallel/base/rng.h"
#include "parallel/comm/mesh.h"
#include "parallel/comm/shards.h"
#include "parallel/device/accelerator.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/peer.h"
#include "parallel/device/transfer.h"
#include "tests/comm/nccl/one_gpu.h"

namespace cadre::comm {
namespace {

World* g_world = nullptr;  // of main
using device::bf16;
using device::View;

const device::Accelerator& gpu() {
  return device::accelerator(device::DeviceKind::kCuda);
}

class Nccl : public testing::Test {
 protected:
  Nccl()
      : queue_(gpu().make_queue(g_world->local_rank() % gpu().probe().num_devices)),
        mesh_(*g_world, {.ep = g_world->size()}) {
    mesh_.connect(*queue_);
  }
  Communicator& comm() { return mesh_.data_tensors(); }
  int rank() { return comm().rank(); }
  int size() { return comm().size(); }

  template <class T>
  View<T, 1> put(const std::vector<T>& host) {
    memory_.emplace_back(device::DeviceKind::kCuda, std::max<size_t>(16, host.size() * sizeof(T)));
    const View<T, 1> view(reinterpret_cast<T*>(memory_.back().data()), {int64_t(host.size())});
    device::upload(*queue_, host, view);
    return view;
  }
  template <class T>
  std::vector<T> get(View<T, 1> view) {
    std::vector<T> host(size_t(view.size()));
    device::download<T>(*queue_, view, host);
    queue_->wait();
    return host;
  }

  std::unique_ptr<device::Queue> queue_;
  Mesh mesh_;
  std::vector<device::Buffer> memory_;
};

// What rank `from` has for rank `to`, element i.
double value(int from, int to, int64_t i) {
  // Rounded, because a compiler may give the last bit of a double differently in two places.
  return float(base::Philox(base::mix(uint64_t(from), uint64_t(to))).normal(uint64_t(i)));
}
std::vector<int64_t> begins_of(const std::vector<int64_t>& counts) {
  std::vector<int64_t> begins(counts.size());
  for (size_t r = 1; r < counts.size(); ++r) begins[r] = begins[r - 1] + counts[r - 1];
  return begins;
}

TEST_F(Nccl, AllToAllMovesUnevenAndEmptyParts) {
  for (const int64_t unit : {0, 1, 1000, 300000}) {
    std::vector<int64_t> send_counts, receive_counts;
    for (int r = 0; r < size(); ++r) {
      send_counts.push_back(unit * (r + 2 * rank()));
      receive_counts.push_back(unit * (rank() + 2 * r));
    }
    const auto send_begins = begins_of(send_counts), receive_begins = begins_of(receive_counts);
    std::vector<float> send, expected;
    for (int r = 0; r < size(); ++r)
      for (int64_t i = 0; i < send_counts[size_t(r)]; ++i) send.push_back(float(value(rank(), r, i)));
    for (int r = 0; r < size(); ++r)
      for (int64_t i = 0; i < receive_counts[size_t(r)]; ++i) expected.push_back(float(value(r, rank(), i)));
    const auto from = put(send), to = put(std::vector<float>(expected.size(), NAN));
    Request request = comm().all_to_all(from.data(), send_counts, send_begins, to.data(), receive_counts,
                                        receive_begins, Dtype::kFloat, "test");
    request.then(*queue_);
    EXPECT_EQ(get(to), expected) << "unit " << unit;
  }
}

TEST_F(Nccl, AllGatherTakesEvenUnevenAndInPlaceParts) {
  for (const bool even : {true, false}) {
    for (const bool in_place : {true, false}) {
      std::vector<int64_t> counts;
      for (int r = 0; r < size(); ++r) counts.push_back(even ? 5000 : 5000 * r + 3);
      const auto begins = begins_of(counts);
      std::vector<float> expected, own;
      for (int r = 0; r < size(); ++r)
        for (int64_t i = 0; i < counts[size_t(r)]; ++i) expected.push_back(float(value(r, 0, i)));
      own.assign(expected.begin() + begins[size_t(rank())],
                 expected.begin() + begins[size_t(rank())] + counts[size_t(rank())]);
      std::vector<float> start(expected.size(), NAN);
      if (in_place) std::copy(own.begin(), own.end(), start.begin() + begins[size_t(rank())]);
      const auto all = put(start), mine = put(own);
      comm()
          .all_gather(in_place ? all.data() + begins[size_t(rank())] : mine.data(), counts[size_t(rank())],
                      all.data(), counts, begins, Dtype::kFloat, "test")
          .wait();
      EXPECT_EQ(get(all), expected) << even << in_place;
    }
  }
}

TEST_F(Nccl, BroadcastReachesAllFromEveryRoot) {
  for (int root = 0; root < size(); ++root) {
    const auto data = put(std::vector<int64_t>(100, rank()));
    comm().broadcast(data.data(), 100, root, Dtype::kInt64, "test").then(*queue_);
    EXPECT_EQ(get(data), std::vector<int64_t>(100, root));
  }
}

// Longer than the memory in which parts are collected, and of odd lengths; the sum in rank order, to the bit.
template <class T>
std::vector<T> naive(int size, int part, int64_t count) {
  std::vector<T> sums;
  for (int64_t i = 0; i < count; ++i) {
    device::wide_t<T> sum = T(value(0, part, i));
    for (int r = 1; r < size; ++r) sum += device::wide_t<T>(T(value(r, part, i)));
    sums.push_back(T(sum));
  }
  return sums;
}

template <class T>
class NcclSums : public Nccl {};
using Types = testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(NcclSums, Types);

TYPED_TEST(NcclSums, ReduceScatterAddsInRankOrderToTheBit) {
  using T = TypeParam;
  const int size = this->size(), rank = this->rank();
  for (const int64_t unit : {int64_t(1), int64_t(777), int64_t(70) << 16}) {
    if (unit > 1000 && sizeof(T) > 4) continue;
    std::vector<int64_t> cuts = {5};
    for (int r = 0; r < size; ++r) cuts.push_back(cuts.back() + (unit > 1000 ? 5 * unit + 8 * r : r * unit));
    std::vector<T> send(size_t(cuts.back()), T(0.f));
    // One long run of numbers would take the test's whole time to draw: parts repeat every 65536 elements.
    const int64_t period = 1 << 16;
    for (int r = 0; r < size; ++r) {
      for (int64_t i = cuts[size_t(r)]; i < cuts[size_t(r) + 1]; ++i) {
        const int64_t at = i - cuts[size_t(r)];
        send[size_t(i)] = at < period ? T(value(rank, r, at)) : send[size_t(i - period)];
      }
    }
    const auto data = this->put(send);
    const int64_t own = cuts[size_t(rank) + 1] - cuts[size_t(rank)];
    this->comm()
        .reduce_scatter(data.data(), cuts, data.data() + cuts[size_t(rank)], "test")
        .then(*this->queue_);
    const std::vector<T> got = this->get(View<T, 1>(data.data() + cuts[size_t(rank)], {own}));
    const std::vector<T> expected = naive<T>(size, rank, std::min(own, period));
    for (int64_t i = 0; i < own; ++i)
      ASSERT_EQ(got[size_t(i)], expected[size_t(i % period)]) << i << " of " << own;
  }
}

TEST_F(Nccl, AllReduceAndTogether) {
  std::vector<float> sums;
  for (int64_t i = 0; i < 10001; ++i) {
    float sum = float(value(0, 0, i));
    for (int r = 1; r < size(); ++r) sum += float(value(r, 0, i));
    sums.push_back(sum);
  }
  std::vector<float> own;
  for (int64_t i = 0; i < 10001; ++i) own.push_back(float(value(rank(), 0, i)));
  const auto data = put(own);
  queue_->wait();
  comm().all_reduce(std::span<float>(data.data(), own.size()), ReduceOp::kSum, "test");
  EXPECT_EQ(get(data), sums);

  const std::vector<int64_t> ones(size_t(size()), 1), begins = begins_of(ones);
  const auto a = put(std::vector<int64_t>{rank()});
  const auto b = put(std::vector<float>{float(10 + rank())});
  const auto all_a = put(std::vector<int64_t>(size_t(size()), -1));
  const auto all_b = put(std::vector<float>(size_t(size()), -1));
  comm().begin_together();
  Request first = comm().all_gather(a.data(), 1, all_a.data(), ones, begins, Dtype::kInt64, "a"),
          second = comm().all_gather(b.data(), 1, all_b.data(), ones, begins, Dtype::kFloat, "b");
  comm().end_together();
  second.then(*queue_);
  first.then(*queue_);
  for (int r = 0; r < size(); ++r) {
    EXPECT_EQ(get(all_a)[size_t(r)], r);
    EXPECT_EQ(get(all_b)[size_t(r)], float(10 + r));
  }
}

// As a run does it: sums of gradients and gathered values in turns, in memory that is written anew at once. One part is longer
// than the memory in which parts are collected, one is a single element, and one empty, at the memory's end. Every other turn
// gathers from memory that is not shared, as slices of values are.
TEST_F(Nccl, SharedMemoryTravelsByCopiesWithTheSameBits) {
  const int64_t longest = int64_t(20) << 20;
  std::vector<int64_t> rising = {0, 1}, falling = {0, 4096};
  for (int r = 1; r < size(); ++r) {
    rising.push_back(rising.back() + longest + 8 * r + 5);
    falling.push_back(falling.back());
  }
  for (const std::vector<int64_t>& cuts : {rising, falling}) {
    std::vector<int64_t> counts;
    for (int r = 0; r < size(); ++r) counts.push_back(cuts[size_t(r) + 1] - cuts[size_t(r)]);
    const int64_t own_begin = cuts[size_t(rank())], own = counts[size_t(rank())];
    const size_t bytes = size_t(cuts.back()) * sizeof(float);
    const device::Buffer grads(device::DeviceKind::kCuda,
                               (bytes / device::kPeerPage + 1) * device::kPeerPage),
        values(device::DeviceKind::kCuda, (bytes / device::kPeerPage + 1) * device::kPeerPage);
    const auto view = [&](const device::Buffer& memory) {
      return View<float, 1>(reinterpret_cast<float*>(memory.data()), {cuts.back()});
    };
    const View<float, 1> slices = put(std::vector<float>(size_t(own)));
    const auto turn = [&](int number) {
      std::vector<float> mine(size_t(cuts.back()));
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = float(number + 1) * float(i % 1000) + float(rank());
      float* const sums = view(grads).data() + own_begin;
      float* const slice = number % 2 == 0 ? view(values).data() + own_begin : slices.data();
      device::upload(*queue_, mine, view(grads));
      comm().reduce_scatter<float>(view(grads).data(), cuts, sums, "sums").then(*queue_);
      ASSERT_EQ(cudaMemcpyAsync(slice, sums, size_t(own) * sizeof(float), cudaMemcpyDeviceToDevice,
                                static_cast<device::cuda::CudaQueue&>(*queue_).stream()),
                cudaSuccess);
      comm()
          .all_gather(slice, own, view(values).data(), counts, std::span(cuts).first(counts.size()),
                      Dtype::kFloat, "values")
          .then(*queue_);
    };
    std::vector<std::vector<float>> by_nccl;
    for (int number = 0; number < 3; ++number) {
      turn(number);
      by_nccl.push_back(get(view(values)));
    }
    EXPECT_EQ(by_nccl[2][5], 3 * 5 * float(size()) + float(size() * (size() - 1) / 2));
    comm().share(grads.data(), bytes);
    comm().share(values.data(), bytes);
    EXPECT_TRUE(comm().copies(grads.data()));
    EXPECT_TRUE(comm().copies(values.data() + bytes - 1));
    EXPECT_FALSE(comm().copies(values.data() + bytes));
    for (int number = 0; number < 12; ++number) {
      turn(number % 3);
      if (number > 8) {
        EXPECT_EQ(get(view(values)), by_nccl[size_t(number % 3)]) << number;
      }
    }
    queue_->wait();
    comm().end_sharing();
    EXPECT_FALSE(comm().copies(grads.data()));
  }
}

// What one rank cannot do, none does.
TEST_F(Nccl, OneRankWithoutPeerMemoryLeavesAllToNccl) {
  const device::Buffer memory(device::DeviceKind::kCuda, device::kPeerPage);
  if (rank() + 1 == size()) setenv("CADRE_PEER_MEMORY", "0", 1);
  comm().share(memory.data(), memory.bytes());
  EXPECT_FALSE(comm().copies(memory.data()));
  comm().share(memory.data(), memory.bytes());
  EXPECT_FALSE(comm().copies(memory.data()));
  comm().end_sharing();
  if (rank() + 1 == size()) unsetenv("CADRE_PEER_MEMORY");
}

TEST_F(Nccl, ImitationMovesOwnDataAndEnds) {
  comm().set_imitation(true);
  const std::vector<int64_t> counts(size_t(size()), 4), begins = begins_of(counts);
  const auto own = put(std::vector<float>(4, float(rank()))),
             all = put(std::vector<float>(size_t(4 * size()), -1));
  comm().all_gather(own.data(), 4, all.data(), counts, begins, Dtype::kFloat, "test").wait();
  comm().set_imitation(false);
  EXPECT_EQ(get(all), std::vector<float>(size_t(4 * size()), float(rank())));
}

TEST_F(Nccl, ImitatedSumsAreThoseOfRanksThatHaveTheSame) {
  comm().set_imitation(true);
  std::vector<int64_t> cuts = {0};
  for (int r = 0; r < size(); ++r) cuts.push_back(cuts.back() + 5 + 16 * r);
  std::vector<float> mine;
  for (int64_t i = 0; i < cuts.back(); ++i) mine.push_back(float(i + 1));
  const int64_t begin = cuts[size_t(rank())], end = cuts[size_t(rank()) + 1];
  const auto grads = put(mine);
  comm().reduce_scatter<float>(grads.data(), cuts, grads.data() + begin, "sums").wait();
  std::vector<int64_t> counts;
  for (int r = 0; r < size(); ++r) counts.push_back(cuts[size_t(r) + 1] - cuts[size_t(r)]);
  comm()
      .all_gather(grads.data() + begin, end - begin, grads.data(), counts,
                  std::span(cuts).first(counts.size()), Dtype::kFloat, "in place")
      .wait();
  comm().set_imitation(false);
  std::vector<float> expected = mine;
  for (int64_t i = begin; i < end; ++i) expected[size_t(i)] *= float(size());
  EXPECT_EQ(get(grads), expected);
}

}  // namespace
}  // namespace cadre::comm

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto world = cadre::comm::make_world(&argc, &argv);
  cadre::comm::g_world = world.get();
  const auto probe = cadre::comm::gpu().probe();
  const int needed = cadre::comm::ranks_may_share_a_gpu() ? 1 : world->local_size();
  if (world->size() < 2 || probe.num_devices < needed) {
    if (world->rank() == 0) std::printf("[  SKIPPED ] %d ranks: %s\n", world->size(), probe.report.c_str());
    return 0;
  }
  if (world->rank() != 0) testing::GTEST_FLAG(brief) = true;  // failures only
  return RUN_ALL_TESTS();
}
