// Reading other ranks' memory on one GPU: the kernels against the CPU's in double with the arrays of several ranks in one memory,
// and two ports that signal and await each other from one thread.
#include <cstring>

#include "parallel/base/errors.h"
#include "parallel/device/peer.h"
#include "tests/moe/cuda/side.h"

namespace cadre::moe {
namespace {

using device::View;

template <class T>
class PeerEntries : public BothSides<T> {};
TYPED_TEST_SUITE(PeerEntries, Storages);

constexpr int kRanks = 3, kExperts = 6;
constexpr int64_t kTokens = 67, kSlots = kTokens * kExperts;

// A rank's slots by expert, then token: each pair with probability 0.4, none for the tokens of the last row of ranks.
struct Lists {
  explicit Lists(int rank, bool empty = false) {
    const base::Philox random(base::mix(77, uint64_t(rank)));
    offsets.push_back(0);
    for (int e = 0; e < kExperts; ++e) {
      for (int64_t t = 0; t < kTokens && !empty; ++t)
        if (random.uniform(uint64_t(e * kTokens + t)) < 0.4) token.push_back(double(t));
      offsets.push_back(double(token.size()));
    }
    token.resize(kSlots, -1);
    gate = numbers<float>(kSlots, uint64_t(rank) + 5);
  }
  std::vector<double> offsets, token, gate;
};

template <class X>
Routing<X> routing_of(Side<X>& s, const Lists& lists) {
  using W = device::wide_t<X>;
  Routing<X> r;
  r.num_tokens = kTokens;
  r.num_experts = kExperts;
  r.num_slots = kSlots;
  r.expert_offsets = s.template put<int64_t, 1>(lists.offsets, {kExperts + 1});
  r.slot_token = s.template put<int32_t, 1>(lists.token, {kSlots});
  r.slot_gate = s.template put<W, 1>(lists.gate, {kSlots});
  return r;
}

TYPED_TEST(PeerEntries, SlotsAreStagedAndPulled) {
  const auto body = [](auto& s) {
    using X = typename std::decay_t<decltype(s)>::Number;
    using W = device::wide_t<X>;
    Results out;
    PeerSlots<X> all;
    all.offsets.ranks = all.token.ranks = all.gate.ranks = kRanks;
    for (int rank = 0; rank < kRanks; ++rank) {
      const Routing<X> routing = routing_of(s, Lists(rank, rank == 1));
      const auto offsets = s.template poison<int64_t, 1>({kExperts + 1});
      const auto token = s.template put<int32_t, 1>(std::vector<double>(kSlots, -7), {kSlots});
      const auto gate = s.template put<W, 1>(std::vector<double>(kSlots, -7), {kSlots});
      const auto takes =
          s.template put<uint8_t, 2>(std::vector<double>(kRanks * (kTokens + 5), 9), {kRanks, kTokens + 5});
      s.table.stage_slots(s.queue, routing, {offsets, token, gate}, takes);
      for (const auto& list : {s.get(offsets), s.get(token), s.get(gate), s.get(takes)}) out.push_back(list);
      all.offsets.of[rank] = offsets.data();
      all.token.of[rank] = token.data();
      all.gate.of[rank] = gate.data();
    }
    const auto offsets = s.template poison<int64_t, 2>({kRanks, kExperts + 1});
    const auto token = s.template put<int32_t, 2>(std::vector<double>(kRanks * kSlots, -7), {kRanks, kSlots});
    const auto gate = s.template put<W, 2>(std::vector<double>(kRanks * kSlots, -7), {kRanks, kSlots});
    s.table.pull_slots(s.queue, all, 2, 2, offsets, token, gate);
    for (const auto& list : {s.get(offsets), s.get(token), s.get(gate)}) out.push_back(list);
    const auto home = s.template put<W, 1>(std::vector<double>(kSlots, -7), {kSlots});
    s.table.pull_gates(s.queue, all.gate, routing_of(s, Lists(2)).expert_offsets, home);
    out.push_back(s.get(home));
    return out;
  };
  expect_same(this->on_gpu(body), this->on_cpu(body));
}

// Widths that go in packs of 16 bytes and one that does not, one longer than a warp reads at a time.
TYPED_TEST(PeerEntries, RowsAndSumsArePulledInRankOrder) {
  for (const int64_t width : {int64_t(7), int64_t(64), int64_t(2056)}) {
    const auto body = [width](auto& s) {
      using X = typename std::decay_t<decltype(s)>::Number;
      Results out;
      PeerArrays<X> all;
      all.ranks = kRanks;
      all.self = 1;
      for (int rank = 0; rank < kRanks; ++rank) {
        const auto rows = numbers<TypeParam>(size_t(kTokens * width), uint64_t(rank) + 3);
        const auto put = s.template put<X, 2>(rows, {kTokens, width});
        const auto copy = s.template poison<X, 2>({kTokens, width});
        s.table.copy_rows(s.queue, put, copy);
        all.of[rank] = copy.data();
      }
      std::vector<double> offsets = {0}, takes;
      const base::Philox random(3);
      for (int64_t row = 0; row < kRanks * kTokens; ++row) {
        offsets.push_back(offsets.back() + double(random.bits(uint64_t(row), 0) % 3));
        takes.push_back(double(random.bits(uint64_t(row), 1) % 2));
      }
      const auto pulled = s.template put<X, 2>(std::vector<double>(size_t(kRanks * kTokens * width), -7),
                                               {kRanks * kTokens, width});
      s.table.pull_rows(s.queue, all, s.template put<int32_t, 1>(offsets, {kRanks * kTokens + 1}), pulled);
      out.push_back(s.get(pulled));
      const auto marks = s.template put<uint8_t, 2>(takes, {kRanks, kTokens});
      for (const bool accumulate : {false, true}) {
        // Fewer tokens than the arrays have.
        const auto sums =
            s.template put<X, 2>(numbers<TypeParam>(size_t((kTokens - 3) * width), 21), {kTokens - 3, width});
        s.table.pull_sums(s.queue, all, marks, accumulate, sums);
        out.push_back(s.get(sums));
      }
      return out;
    };
    const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
    EXPECT_EQ(gpu[0], cpu[0]) << width;  // copies
    // Sums of few bf16 numbers are often halfway between two others: each may be off by half a place of 8 bits.
    const double bound = std::is_same_v<TypeParam, float> ? product_bound<float>(kRanks + 1) : 0x1p-8;
    for (size_t i = 1; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], bound, "sums of width " + std::to_string(width));
  }
}

// ---- Flags ----

class PeerPorts : public testing::Test {
 protected:
  void SetUp() override {
    const auto& gpu = device::accelerator(device::DeviceKind::kCuda);
    if (gpu.probe().num_devices == 0) GTEST_SKIP() << gpu.probe().report;
    for (auto& queue : queues) queue = gpu.make_queue(0);
    for (auto& port : ports) port = device::make_peer_port(device::DeviceKind::kCuda, 1 << 16);
  }
  uint64_t* flag(int port, int of) {
    return reinterpret_cast<uint64_t*>(ports[port]->data()) + of * device::kFlagStride;
  }
  void signal(int self, uint64_t number) {
    uint64_t* const flags[] = {flag(0, self), flag(1, self)};
    ports[self]->signal(*queues[self], flags, number);
  }
  void await(int self, uint64_t number, std::chrono::milliseconds timeout) {
    ports[self]->await(*queues[self], 0, flag(self, 0), 2, number, timeout);
  }
  std::unique_ptr<device::Queue> queues[2];
  std::unique_ptr<device::PeerPort> ports[2];
};

// All signals of a round are queued before its awaits, as one thread has both queues.
TEST_F(PeerPorts, AnAwaitComesAfterWhatWasWrittenBeforeTheSignal) {
  ASSERT_EQ(ports[0]->open(ports[1]->handle_of(ports[1]->data())),
            ports[1]->data());  // of one process: the same pointer
  constexpr int64_t kCount = 5000, kPlace = 8192;
  for (uint64_t round = 1; round <= 50; ++round) {
    for (int self : {0, 1}) {
      const std::vector<int32_t> values(kCount, int32_t(1000 * round + uint64_t(self)));
      queues[self]->upload(values.data(), ports[self]->data() + kPlace, kCount * 4);
      signal(self, round);
    }
    std::vector<int32_t> seen(kCount);
    for (int self : {0, 1}) {
      device::Queue& beside = ports[self]->fork(*queues[self]);
      ports[self]->await(beside, 0, flag(self, 0), 2, round, std::chrono::seconds(10));
      ports[self]->join(*queues[self]);
      queues[self]->download(ports[1 - self]->data() + kPlace, seen.data(), kCount * 4);
      queues[self]->wait();
      ASSERT_EQ(seen, std::vector<int32_t>(kCount, int32_t(1000 * round + uint64_t(1 - self))));
      ASSERT_EQ(ports[self]->reached(0), round);
      ASSERT_EQ(ports[self]->missing(), -1);
    }
  }
}

// A peer that does not come: the queue ends by itself, the host can read who it was, and later awaits do not wait.
TEST_F(PeerPorts, AMissingPeerEndsTheWaitAndIsNamed) {
  signal(0, 1);
  await(0, 1, std::chrono::milliseconds(200));
  await(0, 2, std::chrono::hours(1));
  queues[0]->wait();
  EXPECT_EQ(ports[0]->missing(), 1);
  EXPECT_EQ(ports[0]->reached(0), 0u);
  signal(1, 1);
  queues[1]->wait();
}

TEST_F(PeerPorts, AHandleOfAnotherHostIsRefused) {
  std::string handle = ports[1]->handle_of(ports[1]->data());
  handle[0] = handle[0] == 'x' ? 'y' : 'x';
  try {
    ports[0]->open(handle);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("several hosts"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace cadre::moe
