// Ranks as threads of one process, and the world of a single rank. A message is copied into the mailbox of
// its receiver when it is sent, under the number of the call on its communicator, so that calls complete in
// any order but match in call order.
#include <cstring>
#include <exception>
#include <thread>

#include "parallel/comm/thread_hub.h"
#include "parallel/comm/transports.h"

namespace cadre::comm {
namespace {

// What ranks that were waiting get when another rank failed: never the error that explains the failure.
class PeerFailed : public Error {
 public:
  using Error::Error;
};

struct Incoming {
  int source;
  std::byte* into;
  size_t bytes;
};

// One call of one rank: done when every expected message was copied to its place.
class ThreadRequest : public Request::State {
 public:
  struct Call {
    uint64_t number;
    const char* verb;
    std::string label;
    const Communicator* communicator;  // outlives its requests
  };
  ThreadRequest(std::shared_ptr<Hub> hub, std::shared_ptr<ThreadGroup> group, Call call,
                std::vector<Incoming> expected)
      : hub_(std::move(hub)),
        group_(std::move(group)),
        call_(std::move(call)),
        expected_(std::move(expected)) {}

  bool test() override {
    std::unique_lock lock(box().mutex);
    return collect();
  }

  void wait() override {
    const auto deadline = std::chrono::steady_clock::now() + call_.communicator->timeout();
    std::unique_lock lock(box().mutex);
    while (!collect()) {
      if (hub_->failed()) {
        throw PeerFailed(ExitCode::kComm, fmt::format("{}: another rank failed", describe()));
      }
      if (box().arrived.wait_until(lock, deadline) == std::cv_status::timeout && !collect()) {
        fail(ExitCode::kComm, "{}: rank {} did not come within {} ms", describe(), expected_.front().source,
             call_.communicator->timeout().count());
      }
    }
  }

 private:
  Mailbox& box() { return group_->boxes[call_.communicator->rank()]; }

  std::string describe() const {
    return fmt::format("{} '{}' on communicator '{}', rank {} of {}", call_.verb, call_.label,
                       call_.communicator->name(), call_.communicator->rank(), call_.communicator->size());
  }

  // Takes what has arrived; the mailbox is locked.
  bool collect() {
    std::erase_if(expected_, [&](const Incoming& incoming) {
      const auto found = box().messages.find({call_.number, incoming.source});
      if (found == box().messages.end()) return false;
      const Message message = std::move(found->second);
      box().messages.erase(found);
      require(message.verb == call_.verb && message.bytes.size() == incoming.bytes, ExitCode::kComm,
              "{}: expected {} bytes, but rank {} sent {} in {} '{}'", describe(), incoming.bytes,
              incoming.source, message.bytes.size(), message.verb, message.label);
      if (incoming.bytes > 0) std::memcpy(incoming.into, message.bytes.data(), incoming.bytes);
      return true;
    });
    return expected_.empty();
  }

  std::shared_ptr<Hub> hub_;
  std::shared_ptr<ThreadGroup> group_;
  Call call_;
  std::vector<Incoming> expected_;
};

constexpr const char* kAllToAll = "all_to_all";
constexpr const char* kAllGather = "all_gather";
constexpr const char* kBroadcast = "broadcast";

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::string name, std::shared_ptr<Hub> hub, std::shared_ptr<ThreadGroup> group, int rank)
      : Communicator(std::move(name)), hub_(std::move(hub)), group_(std::move(group)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return int(group_->boxes.size()); }

  Request all_to_all(const void* send, std::span<const int64_t> send_counts,
                     std::span<const int64_t> send_displs, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override {
    const size_t width = size_of(dtype);
    const auto* from = static_cast<const std::byte*>(send);
    auto* into = static_cast<std::byte*>(receive);
    require(send_counts[rank_] == receive_counts[rank_], ExitCode::kComm,
            "{}: rank {} sends {} elements to itself but receives {}", label, rank_, send_counts[rank_],
            receive_counts[rank_]);
    std::vector<Incoming> expected;
    for (int peer = 0; peer < size(); ++peer) {
      const size_t bytes = size_t(send_counts[peer]) * width;
      const std::byte* part = from + size_t(send_displs[peer]) * width;
      std::byte* place = into + size_t(receive_displs[peer]) * width;
      if (peer == rank_) {
        copy_own(place, part, bytes);
      } else {
        post(peer, kAllToAll, label, part, bytes);
        expected.push_back({peer, place, size_t(receive_counts[peer]) * width});
      }
    }
    return finish_call(kAllToAll, label, std::move(expected));
  }

  Request all_gather(const void* send, int64_t send_count, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view label) override {
    const size_t width = size_of(dtype), bytes = size_t(send_count) * width;
    const auto* from = static_cast<const std::byte*>(send);
    std::vector<Incoming> expected;
    for (int peer = 0; peer < size(); ++peer) {
      std::byte* place = static_cast<std::byte*>(receive) + size_t(receive_displs[peer]) * width;
      if (peer == rank_) {
        copy_own(place, from, bytes);
      } else {
        post(peer, kAllGather, label, from, bytes);
        expected.push_back({peer, place, size_t(receive_counts[peer]) * width});
      }
    }
    return finish_call(kAllGather, label, std::move(expected));
  }

  Request broadcast(void* data, int64_t count, int root, Dtype dtype, std::string_view label) override {
    const size_t bytes = size_t(count) * size_of(dtype);
    std::vector<Incoming> expected;
    if (rank_ != root) {
      expected.push_back({root, static_cast<std::byte*>(data), bytes});
    } else {
      for (int peer = 0; peer < size(); ++peer) {
        if (peer != root) post(peer, kBroadcast, label, static_cast<const std::byte*>(data), bytes);
      }
    }
    return finish_call(kBroadcast, label, std::move(expected));
  }

 private:
  static void copy_own(std::byte* place, const std::byte* part, size_t bytes) {
    if (bytes > 0 && place != part) std::memcpy(place, part, bytes);
  }

  void post(int peer, const char* verb, std::string_view label, const std::byte* data, size_t bytes) {
    Message message{verb, std::string(label), std::vector<std::byte>(data, data + bytes)};
    Mailbox& box = group_->boxes[peer];
    {
      std::lock_guard lock(box.mutex);
      box.messages.emplace(std::pair(calls_, rank_), std::move(message));
    }
    box.arrived.notify_one();
  }

  Request finish_call(const char* verb, std::string_view label, std::vector<Incoming> expected) {
    const uint64_t number = calls_++;
    if (expected.empty()) return {};
    return Request(std::make_unique<ThreadRequest>(
        hub_, group_, ThreadRequest::Call{number, verb, std::string(label), this}, std::move(expected)));
  }

  std::shared_ptr<Hub> hub_;
  std::shared_ptr<ThreadGroup> group_;
  const int rank_;
  uint64_t calls_ = 0;  // made so far by this rank; all ranks of the group count alike
};

class ThreadWorld : public World {
 public:
  ThreadWorld(std::shared_ptr<Hub> hub, int rank)
      : hub_(hub), rank_(rank), all_("world", hub, hub->group({0, 0}, hub->size()), rank) {}
  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  int local_size() const override { return hub_->size(); }
  int local_rank() const override { return rank_; }

  std::unique_ptr<Communicator> split(const Colors& color_of, const std::string& name) override {
    const int color = color_of(rank_);
    const std::vector<int64_t> colors =
        all_.exchange_counts(std::vector<int64_t>(size(), color), "split " + name);
    int members = 0, my_rank = 0;
    for (int r = 0; r < size(); ++r) {
      if (colors[r] != color) continue;
      if (r < rank_) ++my_rank;
      ++members;
    }
    return std::make_unique<ThreadCommunicator>(name, hub_, hub_->group({++splits_, color}, members),
                                                my_rank);
  }

  void abort(int) override { hub_->fail(); }

 private:
  std::shared_ptr<Hub> hub_;
  const int rank_;
  int splits_ = 0;
  ThreadCommunicator all_;
};

bool is_peer_failed(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const PeerFailed&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

std::unique_ptr<World> make_local_world() {
  return std::make_unique<ThreadWorld>(std::make_shared<Hub>(1), 0);
}

std::unique_ptr<Communicator> make_local_communicator(const std::string& name) {
  return std::make_unique<ThreadCommunicator>(name, std::make_shared<Hub>(1),
                                              std::make_shared<ThreadGroup>(1), 0);
}

void run_threads(int num_ranks, const std::function<void(World&)>& body) {
  auto hub = std::make_shared<Hub>(num_ranks);
  std::vector<std::exception_ptr> errors(num_ranks);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < num_ranks; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          ThreadWorld world(hub, rank);
          body(world);
        } catch (...) {
          errors[rank] = std::current_exception();
          hub->fail();
        }
      });
    }
  }
  for (const bool released : {false, true}) {
    for (const std::exception_ptr& error : errors) {
      if (error && is_peer_failed(error) == released) std::rethrow_exception(error);
    }
  }
}

}  // namespace cadre::comm
