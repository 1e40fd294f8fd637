// Ranks as processes that find each other without MPI: many sites start tasks, but build no PMI. Slower than MPI on one
// host; meant for runs on GPUs, whose tensors go through NCCL, and where there is no MPI at all.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "parallel/base/blackbox.h"
#include "parallel/comm/tcp_mesh.h"
#include "parallel/comm/transports.h"

namespace cadre::comm {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(20);  // between two looks at the clock

// The ranks of a communicator, by its own order.
struct TcpGroup {
  uint64_t number;
  std::vector<int> members;  // world ranks, rising
};

struct Expected {
  int sender;  // world rank
  std::byte* into;
  size_t bytes;
};

class TcpRequest : public Request::State {
 public:
  TcpRequest(TcpMesh& mesh, const Communicator& communicator, uint64_t group, uint64_t call, const char* verb,
             std::string_view label, uint64_t bytes, std::vector<Expected> expected)
      : mesh_(mesh),
        communicator_(communicator),
        group_(group),
        call_(call),
        verb_(verb),
        label_(label),
        record_(base::collective_started(verb, label, bytes)),
        expected_(std::move(expected)) {}

  bool test() override {
    mesh_.progress(std::chrono::milliseconds(0));
    if (!collect()) return false;
    base::collective_done(record_, {});
    return true;
  }
  void wait() override {
    const auto start = std::chrono::steady_clock::now();
    while (!collect()) {
      require(std::chrono::steady_clock::now() - start < communicator_.timeout(), ExitCode::kComm,
              "{}: rank {} did not come within {} ms; it hangs or was lost", describe(),
              expected_.front().sender, communicator_.timeout().count());
      mesh_.progress(kPatience);
    }
    base::collective_done(record_, std::chrono::steady_clock::now() - start);
  }

 private:
  std::string describe() const {
    return fmt::format("{} '{}' on communicator '{}', rank {} of {}", verb_, label_, communicator_.name(),
                       communicator_.rank(), communicator_.size());
  }
  bool collect() {
    std::vector<std::byte> message;
    std::erase_if(expected_, [&](const Expected& e) {
      try {
        if (!mesh_.take({group_, call_, e.sender}, message)) return false;
      } catch (const Error& error) {
        fail(error.code(), "{}: {}", describe(), error.what());
      }
      require(message.size() == e.bytes, ExitCode::kComm, "{}: expected {} bytes, but rank {} sent {}",
              describe(), e.bytes, e.sender, message.size());
      if (e.bytes > 0) std::memcpy(e.into, message.data(), e.bytes);
      return true;
    });
    return expected_.empty();
  }

  TcpMesh& mesh_;
  const Communicator& communicator_;  // outlives its requests
  const uint64_t group_, call_;
  const char* verb_;
  std::string label_;
  uint64_t record_;
  std::vector<Expected> expected_;
};

class TcpCommunicator : public Communicator {
 public:
  TcpCommunicator(std::string name, TcpMesh& mesh, TcpGroup group)
      : Communicator(std::move(name)), mesh_(mesh), group_(std::move(group)) {
    const auto self = std::find(group_.members.begin(), group_.members.end(), mesh_.rank());
    rank_ = int(self - group_.members.begin());
  }
  int rank() const override { return rank_; }
  int size() const override { return int(group_.members.size()); }

  Request all_to_all(const void* send, std::span<const int64_t> send_counts,
                     std::span<const int64_t> send_displs, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override {
    if (imitation())
      return imitate_all_to_all(send, send_counts, send_displs, receive, receive_counts, receive_displs,
                                dtype),
             Request();
    const int64_t width = int64_t(size_of(dtype));
    uint64_t sent = 0;
    Call call = begin();
    for (int peer = 0; peer < size(); ++peer) {
      const auto* from = static_cast<const std::byte*>(send) + send_displs[peer] * width;
      auto* into = static_cast<std::byte*>(receive) + receive_displs[peer] * width;
      sent += uint64_t(send_counts[peer] * width);
      exchange(call, peer, from, send_counts[peer] * width, into, receive_counts[peer] * width);
    }
    return end("all_to_all", label, sent, std::move(call));
  }
  Request all_gather(const void* send, int64_t send_count, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override {
    if (imitation())
      return imitate_all_gather(send, send_count, receive, receive_counts, receive_displs, dtype), Request();
    const int64_t width = int64_t(size_of(dtype));
    Call call = begin();
    for (int peer = 0; peer < size(); ++peer) {
      exchange(call, peer, static_cast<const std::byte*>(send), send_count * width,
               static_cast<std::byte*>(receive) + receive_displs[peer] * width, receive_counts[peer] * width);
    }
    return end("all_gather", label, uint64_t(send_count * width), std::move(call));
  }
  Request broadcast(void* data, int64_t count, int root, Dtype dtype, std::string_view label) override {
    if (imitation()) return {};
    const int64_t bytes = count * int64_t(size_of(dtype));
    Call call = begin();
    auto* at = static_cast<std::byte*>(data);
    if (rank_ != root) call.expected.push_back({group_.members[size_t(root)], at, size_t(bytes)});
    for (int peer = 0; rank_ == root && peer < size(); ++peer)
      if (peer != root)
        mesh_.send(group_.members[size_t(peer)], group_.number, call.number, at, size_t(bytes));
    return end("broadcast", label, uint64_t(bytes), std::move(call));
  }

 private:
  struct Call {
    uint64_t number;
    std::vector<Expected> expected;
  };
  Call begin() { return {calls_++, {}}; }
  // An empty message is sent too: a call of different lengths on two ranks is then an error and not a hang.
  void exchange(Call& call, int peer, const std::byte* from, int64_t send_bytes, std::byte* into,
                int64_t receive_bytes) {
    if (peer == rank_) {
      if (receive_bytes > 0 && into != from)
        std::memmove(into, from, size_t(std::min(send_bytes, receive_bytes)));
      return;
    }
    const int world_rank = group_.members[size_t(peer)];
    mesh_.send(world_rank, group_.number, call.number, from, size_t(send_bytes));
    call.expected.push_back({world_rank, into, size_t(receive_bytes)});
  }
  Request end(const char* verb, std::string_view label, uint64_t bytes, Call call) {
    if (call.expected.empty()) return {};
    return Request(std::make_unique<TcpRequest>(mesh_, *this, group_.number, call.number, verb, label, bytes,
                                                std::move(call.expected)));
  }

  TcpMesh& mesh_;  // outlives the communicator
  const TcpGroup group_;
  int rank_ = 0;
  uint64_t calls_ = 0;  // made so far by this rank; all ranks of the group count alike
};

class TcpWorld : public World {
 public:
  TcpWorld(int rank, int ranks, const std::string& meeting, std::chrono::milliseconds timeout)
      : mesh_(rank, ranks, meeting, timeout), all_("world", mesh_, {0, everyone(ranks)}) {
    const auto& hosts = mesh_.hosts();
    for (int r = 0; r < ranks; ++r) {
      if (hosts[size_t(r)] != hosts[size_t(rank)]) continue;
      local_rank_ += r < rank ? 1 : 0;
      ++local_size_;
    }
  }
  int rank() const override { return mesh_.rank(); }
  int size() const override { return mesh_.ranks(); }
  int local_size() const override { return local_size_; }
  int local_rank() const override { return local_rank_; }

  std::unique_ptr<Communicator> split(const Colors& color_of, const std::string& name) override {
    const int color = color_of(rank());
    const std::vector<int64_t> colors =
        all_.exchange_counts(std::vector<int64_t>(size_t(size()), color), "split " + name);
    TcpGroup group{++splits_, {}};
    for (int r = 0; r < size(); ++r)
      if (colors[size_t(r)] == color) group.members.push_back(r);
    if (group.members.size() == 1) return make_local_communicator(name);
    return std::make_unique<TcpCommunicator>(name, mesh_, std::move(group));
  }
  // The others find the connections closed, name this rank and leave with exit code 5.
  void abort(int exit_code) override { _exit(exit_code); }

 private:
  static std::vector<int> everyone(int ranks) {
    std::vector<int> all;
    for (int r = 0; r < ranks; ++r) all.push_back(r);
    return all;
  }
  TcpMesh mesh_;
  TcpCommunicator all_;
  int local_size_ = 0, local_rank_ = 0;
  uint64_t splits_ = 0;  // every rank splits in the same order, so that numbers agree
};

}  // namespace

std::unique_ptr<World> make_tcp_world(int rank, int ranks, const std::string& meeting,
                                      std::chrono::milliseconds timeout) {
  return std::make_unique<TcpWorld>(rank, ranks, meeting, timeout);
}

}  // namespace cadre::comm
