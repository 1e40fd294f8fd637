#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <thread>

#include "parallel/base/rng.h"
#include "tests/comm/checks.h"

namespace cadre::comm {
namespace {

// Values whose sums depend on the order of addition: magnitudes from 1e-3 to 1e4. Not inlined: the product
// would be fused with the sum below.
template <class T>
[[gnu::noinline]] T value(int rank, int64_t i) {
  const base::Philox random(base::mix(17, uint64_t(rank)));
  return T(std::pow(10.0, random.uniform(uint64_t(2 * i)) * 7 - 3) *
           (random.uniform(uint64_t(2 * i + 1)) - 0.5));
}

template <class T>
std::vector<T> values(int rank, int64_t count) {
  std::vector<T> all(count);
  for (int64_t i = 0; i < count; ++i) all[i] = value<T>(rank, i);
  return all;
}

// The reference: ((rank 0 + rank 1) + rank 2) + ...
template <class T>
T sum_in_rank_order(int ranks, int64_t i) {
  T sum = value<T>(0, i);
  for (int r = 1; r < ranks; ++r) sum += value<T>(r, i);
  return sum;
}

int64_t uneven(int from, int to) {
  return (from * 7 + to * 3) % 5;
}  // 0 among them

template <class T>
void check_sums(Communicator& comm, int64_t count) {
  std::vector<T> data = values<T>(comm.rank(), count);
  comm.all_reduce(std::span(data), ReduceOp::kSum, "sums");
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(data[i], sum_in_rank_order<T>(comm.size(), i)) << "element " << i << " of " << count;
  }
}

template <class T>
void check_scatter(Communicator& comm, std::vector<int64_t> cuts, bool in_place) {
  std::vector<T> send = values<T>(comm.rank(), cuts.back());
  std::vector<T> apart(cuts[comm.rank() + 1] - cuts[comm.rank()]);
  T* receive = in_place ? send.data() + cuts[comm.rank()] : apart.data();
  comm.reduce_scatter(send.data(), cuts, receive, "scatter").wait();
  for (int64_t i = cuts[comm.rank()]; i < cuts[comm.rank() + 1]; ++i) {
    ASSERT_EQ(receive[i - cuts[comm.rank()]], sum_in_rank_order<T>(comm.size(), i)) << "element " << i;
  }
}

}  // namespace

void check_all_to_all(World& world) {
  const auto comm = world.everyone("all");
  const int n = comm->size(), me = comm->rank();
  std::vector<int64_t> send_counts(n), send_displs(n), receive_counts(n), receive_displs(n);
  std::vector<int32_t> send;
  // Parts stand in falling order of the peer, with gaps between them.
  for (int peer = n - 1; peer >= 0; --peer) {
    send_counts[peer] = uneven(me, peer);
    send_displs[peer] = int64_t(send.size());
    for (int64_t i = 0; i < send_counts[peer]; ++i) send.push_back(int32_t(me * 10000 + peer * 100 + i));
    send.push_back(-7);
  }
  int64_t total = 0;
  for (int peer = 0; peer < n; ++peer) {
    receive_counts[peer] = uneven(peer, me);
    receive_displs[peer] = total;
    total += receive_counts[peer] + 1;
  }
  std::vector<int32_t> receive(total, -1);
  comm->all_to_all(send.data(), send_counts, send_displs, receive.data(), receive_counts, receive_displs,
                   Dtype::kInt32, "parts")
      .wait();
  for (int peer = 0; peer < n; ++peer) {
    for (int64_t i = 0; i < receive_counts[peer]; ++i) {
      EXPECT_EQ(receive[receive_displs[peer] + i], peer * 10000 + me * 100 + i);
    }
    EXPECT_EQ(receive[receive_displs[peer] + receive_counts[peer]], -1)
        << "written past the part of " << peer;
  }
}

void check_all_gather(World& world) {
  const auto comm = world.everyone("all");
  const int n = comm->size(), me = comm->rank();
  for (const bool in_place : {false, true}) {
    std::vector<int64_t> counts(n), displs(n);
    int64_t total = 0;
    for (int r = 0; r < n; ++r) {
      counts[r] = r % 3;  // rank 0 gives nothing
      displs[r] = total;
      total += counts[r];
    }
    std::vector<double> all(total + 1, -1), own;
    for (int64_t i = 0; i < counts[me]; ++i) own.push_back(me * 100 + double(i));
    std::copy(own.begin(), own.end(), all.begin() + displs[me]);
    const double* send = in_place ? all.data() + displs[me] : own.data();
    comm->all_gather(send, counts[me], all.data(), counts, displs, Dtype::kDouble, "gather").wait();
    for (int r = 0; r < n; ++r) {
      for (int64_t i = 0; i < counts[r]; ++i) EXPECT_EQ(all[displs[r] + i], r * 100 + double(i));
    }
    EXPECT_EQ(all[total], -1);
  }
}

void check_broadcast(World& world) {
  const auto comm = world.everyone("all");
  for (int root = 0; root < comm->size(); ++root) {
    std::vector<int64_t> data(100, comm->rank() == root ? root + 1000 : 0);
    comm->broadcast(data.data(), 100, root, Dtype::kInt64, "from root").wait();
    EXPECT_EQ(data, std::vector<int64_t>(100, root + 1000));
  }
}

void check_all_reduce(World& world) {
  const auto comm = world.everyone("all");
  for (int64_t count : {0, 1, 5, 1000, 4096, 4097, 20001}) {  // both sides of the limit between the two ways
    check_sums<float>(*comm, count);
    check_sums<double>(*comm, count);
    check_sums<int64_t>(*comm, count);
  }
  const int n = comm->size(), me = comm->rank();
  EXPECT_EQ(comm->all_reduce(int32_t(me), ReduceOp::kMax, "max"), n - 1);
  EXPECT_EQ(comm->all_reduce(5.0 - me, ReduceOp::kMin, "min"), 5.0 - (n - 1));
  EXPECT_EQ(comm->all_reduce(int64_t(me), ReduceOp::kSum, "sum"), n * (n - 1) / 2);
}

void check_reduce_scatter(World& world) {
  const auto comm = world.everyone("all");
  const int n = comm->size();
  std::vector<int64_t> even(n + 1), all_to_last(n + 1, 0), uneven_cuts(n + 1, 3);
  for (int r = 0; r <= n; ++r) even[r] = r * 1000;
  all_to_last[n] = 777;
  for (int r = 0; r < n; ++r)
    uneven_cuts[r + 1] = uneven_cuts[r] + (r * 13) % 29;  // starts at 3, rank 0's is empty
  for (const bool in_place : {false, true}) {
    for (const auto& cuts : {even, all_to_last, uneven_cuts}) {
      check_scatter<float>(*comm, cuts, in_place);
      check_scatter<double>(*comm, cuts, in_place);
    }
  }
}

void check_overlapping_calls(World& world) {
  const auto comm = world.everyone("all");
  const int n = comm->size(), me = comm->rank();
  constexpr int kCalls = 6;
  const std::vector<int64_t> ones(n, 1);
  std::vector<int64_t> displs(n);
  std::iota(displs.begin(), displs.end(), 0);
  std::vector<std::vector<int64_t>> got(kCalls, std::vector<int64_t>(n));
  std::vector<int64_t> sent(kCalls);
  std::vector<Request> requests;
  for (int c = 0; c < kCalls; ++c) {
    sent[c] = c * 100 + me;
    requests.push_back(
        comm->all_gather(&sent[c], 1, got[c].data(), ones, displs, Dtype::kInt64, "one of many"));
  }
  // Ranks wait in different orders, and one by polling.
  for (int k = 0; k < kCalls; ++k) {
    const int c = me % 2 ? kCalls - 1 - k : k;
    if (c == 3) {
      while (!requests[c].test()) std::this_thread::yield();
    }
    requests[c].wait();
    for (int r = 0; r < n; ++r) EXPECT_EQ(got[c][r], c * 100 + r);
  }
}

void check_small_verbs(World& world) {
  const auto comm = world.everyone("all");
  const int n = comm->size(), me = comm->rank();
  std::vector<int64_t> counts(n);
  for (int r = 0; r < n; ++r) counts[r] = me * 100 + r;
  const std::vector<int64_t> received = comm->exchange_counts(counts, "counts");
  for (int r = 0; r < n; ++r) EXPECT_EQ(received[r], r * 100 + me);
  comm->barrier("meet");
  const std::vector<std::string> texts = comm->gather_texts(std::string(size_t(me), char('a' + me)), "texts");
  ASSERT_EQ(int(texts.size()), n);
  for (int r = 0; r < n; ++r) EXPECT_EQ(texts[r], std::string(size_t(r), char('a' + r)));
}

void check_agreement(World& world) {
  const auto comm = world.everyone("all");
  EXPECT_NO_THROW(comm->agree("", ExitCode::kData, "fine"));
  const int last = comm->size() - 1;
  try {
    comm->agree(comm->rank() == last ? "shard 3 is damaged" : "", ExitCode::kData, "load");
    ADD_FAILURE() << "rank " << comm->rank() << " did not hear of the error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kData);
    EXPECT_NE(std::string(error.what()).find("shard 3 is damaged"), std::string::npos);
    EXPECT_EQ(std::string(error.what()).find("more ranks"), std::string::npos);
    const std::string who = last > 0 ? fmt::format("rank {}: ", last) : "";
    EXPECT_TRUE(std::string(error.what()).starts_with(who + "shard 3")) << error.what();
  }
}

void check_timeout(World& world) {
  const auto comm = world.everyone("late");
  const int last = comm->size() - 1;
  const int64_t sent = comm->rank();
  std::vector<int64_t> got(comm->size()), displs(comm->size());
  const std::vector<int64_t> ones(comm->size(), 1);
  std::iota(displs.begin(), displs.end(), 0);
  const auto meet = [&] {
    return comm->all_gather(&sent, 1, got.data(), ones, displs, Dtype::kInt64, "the late one");
  };
  if (comm->rank() == last) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    return meet().wait();
  }
  comm->set_timeout(std::chrono::milliseconds(50));
  Request request = meet();
  const auto start = std::chrono::steady_clock::now();
  try {
    request.wait();
    ADD_FAILURE() << "a rank that did not come was not missed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kComm);
    for (const char* part : {"all_gather 'the late one'", "communicator 'late'", "within 50 ms"}) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(1400));
  comm->set_timeout(std::chrono::seconds(60));
  EXPECT_NO_THROW(request.wait());
  EXPECT_EQ(got, displs) << "late, but whole";
}

}  // namespace cadre::comm
