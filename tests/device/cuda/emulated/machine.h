// One block of a kernel on the host: its threads as fibers that take turns at random, warp by warp, and meet at warp
// instructions and barriers; mbarriers, the copy engine and asynchronous products of sm_90a as the PTX ISA describes
// them, each as late (or as early) as it may be. What a kernel forgets to wait for shows as NaN, what waits for ever as
// an error. Speed is not a concern.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <ucontext.h>

namespace cadre::emulated {

// What the lanes of a warp bring to a place where they meet.
struct Deposit {
  int what = 0;  // the instruction: all lanes must be at the same one
  std::array<uint32_t, 4> words{};
};

// A product of warpgroup accumulators; see run_product().
struct Product {
  float* d;
  int columns;
  bool keep, from_registers;
  bool a_across, b_across;  // lies with its first dimension contiguous
  uint64_t a, b;
  std::array<std::array<uint32_t, 4>, 4> quad;  // the left operand of the four lanes of a row
};

class Machine {
 public:
  static constexpr size_t kSharedBytes = 232448;  // that a block may have
  explicit Machine(unsigned seed) : random_(seed), own_memory_(kSharedBytes, 0xff) {}
  // Runs body(thread) for all threads to their end. Throws std::runtime_error when none can go on, and what a body throws.
  void run(int threads, const std::function<void(int)>& body);

  int thread() const { return current_; }
  uint8_t* at(uint32_t address);
  // Shared memory is kSharedBytes here from now on, instead of the machine's own; its address, 0.
  uint32_t place_shared(const void* memory);

  void sync_block();  // of all threads that have not ended, like the next
  // begin: called when all have come, before any goes on.
  void wait_for_kernel_before(const std::function<void()>& begin);
  bool all_waited() const { return all_waited_; }  // of those that ended

  void sync_warpgroup(int number);  // of 128 threads

  void barrier_init(uint32_t address, int arrivals);
  void arrive(uint32_t address, int64_t bytes);
  void wait(uint32_t address, uint32_t parity);
  void copy(uint32_t barrier, uint32_t to, std::vector<uint8_t> bytes);
  // From shared memory to memory, where floats may be added; done somewhen until wait_stores() of the same thread.
  void store(uint8_t* to, uint32_t from, uint32_t bytes, bool adds);
  void commit_stores();
  void wait_stores(size_t pending);
  const Deposit* meet(const Deposit& own);  // of all 32 lanes, until the next but one meeting

  void issue(const Product& product);
  void commit();
  void wait_products(size_t pending);

 private:
  struct Store {
    uint8_t* to;
    uint32_t from, bytes;
    bool adds;
  };
  struct Thread {
    ucontext_t context;
    bool done = false, waited = false;
    const uint32_t* watched = nullptr;  // not to be woken while this is `value`
    uint32_t value = 0;
    std::vector<Product> open;
    std::vector<std::vector<Product>> groups;
    std::vector<Store> open_stores;
    std::vector<std::vector<Store>> stores;  // by commit
  };
  struct Meeting {
    int arrived = 0;
    uint32_t round = 0;
  };
  struct Barrier {
    int arrivals = 0, pending = 0;
    int64_t bytes = 0;
    uint32_t phase = 0;
  };
  struct Warp {
    Meeting meeting;
    std::array<std::array<Deposit, 32>, 2> deposits;
  };
  struct Copy {
    uint32_t barrier, to;
    std::vector<uint8_t> bytes;
    int64_t ends;
  };
  static void enter();
  void turn(int warp);
  void end_thread();
  void yield();
  void wait_while(const uint32_t& watched, uint32_t value);
  bool last_at(Meeting& meeting, int expected);
  void finish_copies();
  void finish_store(const Store& store);
  void end_phase(Barrier& barrier);
  void run_product(const Product& product);
  float shared_value(uint64_t descriptor, int row, int k, bool rows_contiguous);

  std::mt19937 random_;
  std::vector<uint8_t> own_memory_;
  uint8_t* memory_ = own_memory_.data();
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  Meeting sync_, before_;
  std::array<Meeting, 16> warpgroups_;
  std::map<uint32_t, Barrier> barriers_;
  std::vector<Copy> copies_;
  std::function<void(int)> body_;
  std::exception_ptr error_;
  ucontext_t main_;
  int current_ = -1, live_ = 0;
  bool all_waited_ = true;
  int64_t idle_ = 0, time_ = 0;  // in turns of a warp
};

// The machine that runs now, for the functions that stand for instructions.
extern Machine* machine;

}  // namespace cadre::emulated
