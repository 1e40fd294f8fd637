// Follows collectives that a device runs by itself. The host does not wait for each of them, so that a hang would
// show as a step that never ends: a thread of the watchdog looks at the oldest one that is not done, remembers the
// last kFlights (the flight recorder), and says once what failed.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "parallel/base/blackbox.h"

namespace cadre::comm {

class Watchdog {
 public:
  static constexpr size_t kFlights = 64;
  using Clock = std::chrono::steady_clock;

  struct Hooks {
    std::string who;                     // "communicator 'data', rank 1 of 4"
    std::function<void()> start;         // first thing on the watchdog's thread; may be empty
    std::function<std::string()> fault;  // what the transport found wrong; empty text: nothing
    // On the watchdog's thread, once: what happened, and the flight recorder as text.
    std::function<void(const std::string& message, const std::string& flights)> failed;
  };
  Watchdog(Hooks hooks, std::chrono::milliseconds interval);
  ~Watchdog();  // forgets what is under way
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // A collective was handed to the device, which runs them in this order. finished() is asked on the watchdog's thread
  // until it returns true, and destroyed there or in the destructor. The time-out counts from now, or from the end of
  // the collective before when that is later. From the rank's own thread: the collective is also noted in its box
  // (base::Blackbox), whose number for it is returned.
  uint64_t started(const char* verb, std::string_view label, uint64_t bytes,
                   std::chrono::milliseconds timeout, std::function<bool()> finished);
  // Empty, or what failed() was told.
  std::string failure() const;
  // The last kFlights, one a line, oldest first.
  std::string flights() const;

 private:
  enum class State { kUnderWay, kDone, kFailed };
  struct Flight {
    uint64_t number, bytes, box_number;
    std::string verb, label;
    State state;
    Clock::time_point started, ended;
  };
  struct Pending {
    uint64_t number;
    std::chrono::milliseconds timeout;
    std::function<bool()> finished;
  };
  void watch();
  bool look();  // false: it has failed
  Flight& flight(uint64_t number) { return flights_[(number - 1) % kFlights]; }
  std::string flights_text() const;
  void fail(const std::string& message, std::unique_lock<std::mutex>& lock);

  const Hooks hooks_;
  const std::chrono::milliseconds interval_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Flight> flights_;  // a ring of up to kFlights
  std::deque<Pending> pending_;
  uint64_t count_ = 0;
  Clock::time_point last_end_ = Clock::now();
  base::BoxMarks box_;
  std::string failure_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace cadre::comm
