// How far a pass is, on stderr: one line that is rewritten on a terminal, a plain line now and then
// elsewhere.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace cadre::data {

class Progress {
 public:
  // Shown only when `shown` (rank 0). `unit` names what `total` counts, in millions ("MB").
  Progress(std::string pass, uint64_t total, std::string unit, bool shown);
  ~Progress();  // ends the line on a terminal
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void add(uint64_t amount);  // from any thread
  double seconds() const;     // since construction

 private:
  void show(bool last);
  const std::string pass_, unit_;
  const uint64_t total_;
  const bool shown_, terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<uint64_t> done_ = 0;
  std::atomic<int64_t> next_ms_;  // when to show again
  std::mutex mutex_;
};

}  // namespace cadre::data
