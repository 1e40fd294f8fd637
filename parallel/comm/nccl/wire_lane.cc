#include "parallel/comm/nccl/wire_lane.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/stream_values.h"

namespace cadre::comm::nccl {
namespace {

namespace gpu = device::cuda;
using Time = std::chrono::steady_clock::time_point;

struct Words {  // in pinned memory: numbers of the transfers
  uint64_t begun = 0, over = 0;
};

struct Transfer {
  uint64_t number;
  std::chrono::nanoseconds takes;
  std::optional<Time> since;
};

}  // namespace

struct WireLane::State {
  Words* words = nullptr;
  uint64_t number = 0;             // of the newest transfer
  std::deque<Transfer> transfers;  // that are not over; under the clock's mutex

  // Whether there are any.
  bool advance(Time now) {
    while (!transfers.empty()) {
      Transfer& first = transfers.front();
      if (std::atomic_ref(words->begun).load(std::memory_order_acquire) < first.number) break;
      if (!first.since) first.since = now;
      if (now - *first.since < first.takes) break;
      std::atomic_ref(words->over).store(first.number, std::memory_order_release);
      transfers.pop_front();
    }
    return !transfers.empty();
  }
};

class WireLane::Clock {
 public:
  // There while any lane has it.
  static std::shared_ptr<Clock> get() {
    static std::mutex mutex;
    static std::weak_ptr<Clock> known;
    const std::lock_guard lock(mutex);
    std::shared_ptr<Clock> clock = known.lock();
    if (!clock) known = clock = std::make_shared<Clock>();
    return clock;
  }
  void add(State* lane) {
    const std::lock_guard lock(mutex_);
    lanes_.push_back(lane);
  }
  void remove(State* lane) {
    const std::lock_guard lock(mutex_);
    std::erase(lanes_, lane);
  }
  void add(State& lane, Transfer transfer) {
    const std::lock_guard lock(mutex_);
    lane.transfers.push_back(transfer);
  }

 private:
  // Without naps while something is under way: transfers take tens of microseconds.
  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      bool any = false;
      {
        const std::lock_guard lock(mutex_);
        for (State* lane : lanes_) any = lane->advance(std::chrono::steady_clock::now()) || any;
      }
      any ? std::this_thread::yield() : std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
  std::mutex mutex_;
  std::vector<State*> lanes_;
  std::jthread thread_{[this](const std::stop_token& stop) { run(stop); }};  // after what it uses
};

WireLane::WireLane(const ImitatedWire& wire)
    : wire_(wire), clock_(Clock::get()), state_(std::make_unique<State>()) {
  void* words = nullptr;
  gpu::check(cudaHostAlloc(&words, sizeof(Words), cudaHostAllocMapped | cudaHostAllocPortable));
  state_->words = new (words) Words;
  clock_->add(state_.get());
}

WireLane::~WireLane() {
  clock_->remove(state_.get());
  std::atomic_ref(state_->words->over).store(std::numeric_limits<int64_t>::max(), std::memory_order_release);
  cudaDeviceSynchronize();
  cudaFreeHost(state_->words);
}

void WireLane::begin(cudaStream_t stream, size_t bytes) {
  const double rate = wire_.bytes_per_s;
  timed_ = rate > 0 && bytes > 0;
  if (!timed_) return;
  clock_->add(*state_, {++state_->number, std::chrono::nanoseconds(int64_t(1e9 * double(bytes) / rate)), {}});
  gpu::write_value(stream, &state_->words->begun, state_->number);
}

void WireLane::end(cudaStream_t stream) {
  if (timed_) gpu::wait_value(stream, &state_->words->over, state_->number);
  timed_ = false;
}

}  // namespace cadre::comm::nccl
