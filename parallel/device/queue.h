// A Queue is an in-order stream of work on one device. Kernels take it first. On the CPU, work is done when the kernel
// returns; on an accelerator it is done after wait(). CpuQueue owns the threads of its rank.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace cadre::device {

enum class DeviceKind { kCpu, kCuda };

class Queue {
 public:
  virtual ~Queue() = default;
  virtual DeviceKind kind() const = 0;
  virtual void wait() = 0;  // until everything queued so far is done

  // Copies in order with the rest of the queue; typed forms are in transfer.h. The host's memory may change as soon
  // as upload returns; what download brings is there after wait(). The device's memory is never read by the host.
  virtual void upload(const void* host, void* device, size_t bytes) = 0;
  virtual void download(const void* device, void* host, size_t bytes) = 0;
  virtual void zero(void* device, size_t bytes) = 0;
};

class CpuQueue : public Queue {
 public:
  // num_threads >= 1, the caller's thread included. The number takes part in the promise of equal bits.
  explicit CpuQueue(int num_threads);
  ~CpuQueue() override;
  DeviceKind kind() const override { return DeviceKind::kCpu; }
  void wait() override {}
  void upload(const void* host, void* device, size_t bytes) override { std::memcpy(device, host, bytes); }
  void download(const void* device, void* host, size_t bytes) override { std::memcpy(host, device, bytes); }
  void zero(void* device, size_t bytes) override { std::memset(device, 0, bytes); }
  int num_threads() const;

  // Splits [0, n) into at most num_threads contiguous ranges of at least `grain` and runs body(begin, end) on each.
  // The split depends on n, grain and num_threads alone. The first exception is rethrown. Not reentrant.
  void parallel_for(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body);
  // Runs body(task) for tasks 0..n-1, handed out one by one to free threads: for tasks of uneven size whose results
  // do not depend on which thread runs them.
  void parallel_tasks(int64_t n, absl::FunctionRef<void(int64_t)> body);

 private:
  class Pool;
  std::unique_ptr<Pool> pool_;
};

// Every kernel of the CPU tables is only ever called with a CpuQueue.
inline CpuQueue& cpu(Queue& queue) {
  return static_cast<CpuQueue&>(queue);
}

}  // namespace cadre::device
