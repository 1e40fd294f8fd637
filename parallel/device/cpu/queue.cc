// The thread pool of a rank. A training step makes thousands of calls of 10 to 100 us each, so workers stay
// awake for a short while after a call: waking a sleeping thread costs several microseconds.
#include "parallel/device/queue.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace cadre::device {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Polls until ready() or until `patience` is over. After the first microseconds it yields, so that other
// ranks on the same cores get on; returns whether ready.
template <class Ready>
bool spin_until(const Ready& ready, std::chrono::microseconds patience) {
  constexpr auto kPolite = std::chrono::microseconds(5);
  if (ready()) return true;
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
    const auto waited = std::chrono::steady_clock::now() - start;
    if (waited > patience) return false;
    if (waited > kPolite) sched_yield();
  }
}

}  // namespace

// One job at a time. remaining_ counts the tasks that nobody has claimed: a worker that takes it from v > 0
// to v - 1 owns task n - v, and as the job cannot end before that task does, it may read the job. Late
// workers find v <= 0 and touch nothing, so a job needs no generation number.
class CpuQueue::Pool {
 public:
  explicit Pool(int num_threads) : num_threads_(num_threads) {
    // More threads than cores: spinning would only keep the others from running.
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    patience_ = std::chrono::microseconds(unsigned(num_threads) > cores ? 0 : 50);
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int num_threads() const { return num_threads_; }

  void run(int64_t n, absl::FunctionRef<void(int64_t)> body) {
    assert(pending_.load() == 0 && "a queue runs one parallel call at a time");
    body_ = &body;
    n_ = n;
    failed_task_ = std::numeric_limits<int64_t>::max();
    pending_.store(n, std::memory_order_relaxed);
    remaining_.store(n);
    if (sleepers_.load() > 0) wake(n - 1);
    drain();
    if (!spin_until([this] { return done(); }, patience_)) {
      std::unique_lock lock(mutex_);
      caller_sleeps_.store(true);
      finished_.wait(lock, [this] { return done(); });
      caller_sleeps_.store(false);
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  bool done() const { return pending_.load() == 0; }
  bool called() const { return remaining_.load() > 0 || stop_.load(std::memory_order_relaxed); }

  // A worker counts itself among the sleepers before it looks at remaining_ for the last time, and the caller
  // sets remaining_ before it looks at sleepers_ (both sequentially consistent), so one of them sees the
  // other.
  void wake(int64_t wanted) {
    { std::lock_guard lock(mutex_); }
    const int64_t count = std::min<int64_t>(wanted, num_threads_ - 1);
    for (int64_t i = 0; i < count; ++i) wake_.notify_one();
  }

  void work() {
    for (;;) {
      if (!spin_until([this] { return called(); }, patience_)) {
        std::unique_lock lock(mutex_);
        ++sleepers_;
        wake_.wait(lock, [this] { return called(); });
        --sleepers_;
      }
      if (stop_.load(std::memory_order_relaxed)) return;
      drain();
    }
  }

  void drain() {
    for (;;) {
      const int64_t v = remaining_.fetch_sub(1);
      if (v <= 0) return;
      run_task(n_ - v);
      if (pending_.fetch_sub(1) == 1 && caller_sleeps_.load()) {
        { std::lock_guard lock(mutex_); }
        finished_.notify_one();
      }
    }
  }

  // Every task runs, and of several exceptions that of the lowest task is kept, so that the message does not
  // depend on timing.
  void run_task(int64_t task) {
    try {
      (*body_)(task);
    } catch (...) {
      std::lock_guard lock(error_mutex_);
      if (task < failed_task_) {
        failed_task_ = task;
        error_ = std::current_exception();
      }
    }
  }

  const int num_threads_;
  std::chrono::microseconds patience_{0};
  // The job: written by the caller before remaining_, read by owners of a task.
  const absl::FunctionRef<void(int64_t)>* body_ = nullptr;
  int64_t n_ = 0;
  alignas(64) std::atomic<int64_t> remaining_ = 0;
  alignas(64) std::atomic<int64_t> pending_ = 0;
  alignas(64) std::atomic<int> sleepers_ = 0;
  std::atomic<bool> caller_sleeps_ = false, stop_ = false;
  std::mutex mutex_, error_mutex_;
  std::condition_variable wake_, finished_;
  int64_t failed_task_ = 0;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

CpuQueue::CpuQueue(int num_threads) : pool_(std::make_unique<Pool>(std::max(1, num_threads))) {}
CpuQueue::~CpuQueue() = default;
int CpuQueue::num_threads() const {
  return pool_->num_threads();
}

void CpuQueue::parallel_for(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (n <= 0) return;
  const int64_t parts = std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, num_threads());
  if (parts == 1) return body(0, n);
  // The first n % parts ranges are one longer.
  const int64_t length = n / parts, longer = n % parts;
  pool_->run(parts, [&](int64_t part) {
    const int64_t begin = part * length + std::min(part, longer);
    body(begin, begin + length + (part < longer ? 1 : 0));
  });
}

void CpuQueue::parallel_tasks(int64_t n, absl::FunctionRef<void(int64_t)> body) {
  if (num_threads() == 1 || n <= 1) {
    for (int64_t task = 0; task < n; ++task) body(task);
    return;
  }
  pool_->run(n, body);
}

}  // namespace cadre::device
