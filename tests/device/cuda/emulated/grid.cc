#include "tests/device/cuda/emulated/grid.h"

#include <sys/mman.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "tests/device/cuda/emulated/machine.h"

dim3 blockIdx, blockDim, gridDim;

namespace cadre::emulated {

unsigned seed = 1;

namespace {

constexpr size_t kPage = 4096;

struct Range {
  std::byte* data;
  size_t bytes;
  bool of_host = false;
};
std::vector<Range>& pages() {
  static std::vector<Range> all;
  return all;
}
std::vector<Range>& shared_arrays() {
  static std::vector<Range> all;
  return all;
}

volatile std::sig_atomic_t closed = 0, touched = 0;

void set_closed(bool to) {
  if (bool(closed) == to) return;
  for (const Range& r : pages())
    mprotect(r.data, r.bytes, !to ? PROT_READ | PROT_WRITE : r.of_host ? PROT_READ : PROT_NONE);
  closed = to;
}

// Of memory that is closed: noted, and the thread goes on. Any other is a crash.
void on_fault(int, siginfo_t* info, void*) {
  const auto* at = static_cast<std::byte*>(info->si_addr);
  for (const Range& r : pages()) {
    if (!closed || at < r.data || at >= r.data + r.bytes) continue;
    touched = 1;
    return set_closed(false);
  }
  std::signal(SIGSEGV, SIG_DFL);
}

void watch_faults() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
}

void run_block(const Grid& grid, const std::function<void()>& kernel) {
  for (const Range& r : shared_arrays()) std::memset(r.data, 0xff, r.bytes);
  Machine block(seed++);
  set_closed(grid.behind);
  block.run(int(grid.threads.x * grid.threads.y * grid.threads.z), [&](int) { kernel(); });
  set_closed(false);
  if (touched) throw std::runtime_error("a block touched memory before it waited for the kernel before");
  if (grid.behind && !block.all_waited())
    throw std::runtime_error("a thread ended without waiting for the kernel before");
  for (const Range& r : shared_arrays())
    if (std::any_of(r.data + std::min(r.bytes, size_t(grid.shared_bytes)), r.data + r.bytes,
                    [](std::byte b) { return b != std::byte{0xff}; }))
      throw std::runtime_error("a block wrote behind its dynamic shared memory");
}

}  // namespace

void run_grid(const Grid& grid, const std::function<void()>& kernel) {
  gridDim = grid.blocks;
  blockDim = grid.threads;
  touched = 0;
  watch_faults();
  std::vector<unsigned> order(grid.blocks.x * grid.blocks.y * grid.blocks.z);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed++));
  for (const unsigned i : order) {
    blockIdx = {i % grid.blocks.x, i / grid.blocks.x % grid.blocks.y, i / grid.blocks.x / grid.blocks.y};
    try {
      run_block(grid, kernel);
    } catch (...) {
      set_closed(false);
      std::signal(SIGSEGV, SIG_DFL);
      throw;
    }
  }
  std::signal(SIGSEGV, SIG_DFL);
}

void wait_for_kernel_before() {
  machine->wait_for_kernel_before([] { set_closed(false); });
}

dim3 thread_index() {
  const unsigned i = unsigned(machine->thread()), x = blockDim.x, y = blockDim.y;
  return {i % x, i / x % y, i / x / y};
}

DynamicShared::DynamicShared(void* data, size_t bytes) {
  shared_arrays().push_back({static_cast<std::byte*>(data), bytes});
}

std::byte* take_memory(size_t bytes, bool of_host) {
  constexpr size_t kAlignment = 16;
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  void* const base = mmap(nullptr, size + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw std::runtime_error("no memory");
  pages().push_back({static_cast<std::byte*>(base), size, of_host});
  mprotect(base, size, PROT_READ | PROT_WRITE);
  std::memset(base, 0xff, size);
  return static_cast<std::byte*>(base) + size - (bytes + kAlignment - 1) / kAlignment * kAlignment;
}
void expect_memory(const void* data, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  for (const Range& r : pages())
    if (begin >= r.data && begin + bytes <= r.data + r.bytes) return;
  throw std::runtime_error("memory is prefetched that nobody took");
}
void free_memory() {
  for (const Range& r : pages()) munmap(r.data, r.bytes + kPage);
  pages().clear();
}

}  // namespace cadre::emulated
