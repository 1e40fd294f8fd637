#include "parallel/comm/watchdog.h"

#include <fmt/format.h>

#include <algorithm>

namespace cadre::comm {

Watchdog::Watchdog(Hooks hooks, std::chrono::milliseconds interval)
    : hooks_(std::move(hooks)), interval_(interval), box_(base::box_marks()), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

uint64_t Watchdog::started(const char* verb, std::string_view label, uint64_t bytes,
                           std::chrono::milliseconds timeout, std::function<bool()> finished) {
  const uint64_t in_box = base::collective_started(verb, label, bytes);
  const std::lock_guard lock(mutex_);
  Flight added{++count_, bytes, in_box, verb, std::string(label), State::kUnderWay, Clock::now(), {}};
  if (flights_.size() < kFlights) {
    flights_.push_back(std::move(added));
  } else {
    flight(count_) = std::move(added);
  }
  pending_.push_back({count_, timeout, std::move(finished)});
  return in_box;
}

std::string Watchdog::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

std::string Watchdog::flights() const {
  const std::lock_guard lock(mutex_);
  return flights_text();
}

std::string Watchdog::flights_text() const {
  static constexpr const char* kStates[] = {"under way", "done", "failed"};
  std::string text;
  const uint64_t shown = std::min<uint64_t>(count_, kFlights);
  for (uint64_t number = count_ - shown + 1; number <= count_; ++number) {
    const Flight& f = flights_[(number - 1) % kFlights];
    const auto end = f.state == State::kDone ? f.ended : Clock::now();
    text += fmt::format("#{} {} '{}' on {}: {} bytes, {}, {:.1f} ms\n", f.number, f.verb, f.label, hooks_.who,
                        f.bytes, kStates[int(f.state)],
                        std::chrono::duration<double, std::milli>(end - f.started).count());
  }
  return text;
}

void Watchdog::watch() {
  if (hooks_.start) hooks_.start();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (!look()) return;
    wake_.wait_for(lock, interval_, [this] { return stop_; });
  }
}

// The mutex is held throughout: started() waits at most for a few questions to the device.
bool Watchdog::look() {
  std::unique_lock lock(mutex_, std::adopt_lock);
  bool good = true;
  try {
    while (!pending_.empty() && pending_.front().finished()) {
      // One that has left the ring was recorded long ago.
      if (pending_.front().number + kFlights > count_) {
        Flight& done = flight(pending_.front().number);
        done.state = State::kDone;
        done.ended = Clock::now();
        box_.done(done.box_number);
      }
      last_end_ = Clock::now();
      pending_.pop_front();
    }
    const std::string fault = hooks_.fault ? hooks_.fault() : "";
    if (!fault.empty()) fail(fmt::format("{}: {}", hooks_.who, fault), lock), good = false;
    if (good && !pending_.empty()) {
      const Pending& oldest = pending_.front();
      const bool known = oldest.number + kFlights > count_;
      const auto since = known ? std::max(flight(oldest.number).started, last_end_) : last_end_;
      if (Clock::now() - since >= oldest.timeout) {
        const std::string what =
            known ? fmt::format("{} '{}'", flight(oldest.number).verb, flight(oldest.number).label)
                  : fmt::format("collective #{}", oldest.number);
        if (known) flight(oldest.number).state = State::kFailed;
        fail(fmt::format("{} on {}: not done within {} ms; a rank hangs or was lost", what, hooks_.who,
                         oldest.timeout.count()),
             lock);
        good = false;
      }
    }
  } catch (const std::exception& error) {
    fail(fmt::format("{}: {}", hooks_.who, error.what()), lock);
    good = false;
  }
  lock.release();  // the caller's
  return good;
}

// The hook runs without the lock, since it may end the process or ask for what is here.
void Watchdog::fail(const std::string& message, std::unique_lock<std::mutex>& lock) {
  failure_ = message;
  const std::string text = flights_text();
  lock.unlock();
  if (hooks_.failed) hooks_.failed(message, text);
  lock.lock();
}

}  // namespace cadre::comm
