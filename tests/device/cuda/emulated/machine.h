// One block of an sm_90a kernel on the host: its threads as fibers that take turns at random, warp by warp, mbarriers, the
// copy engine and asynchronous products as the PTX ISA describes them, each as late (or as early) as it may be. What a
// kernel forgets to wait for shows as NaN, what waits for ever as an error. Speed is not a concern.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
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
  uint64_t a, b;
  std::array<std::array<uint32_t, 4>, 4> quad;  // the left operand of the four lanes of a row
};

class Machine {
 public:
  explicit Machine(unsigned seed) : random_(seed), memory_(232448, 0xff) {}
  // Runs body(thread) for all threads to their end. Throws std::runtime_error when none can go on.
  void run(int threads, const std::function<void(int)>& body);

  int thread() const { return current_; }
  uint8_t* at(uint32_t address) { return &memory_.at(address); }
  void yield();

  void barrier_init(uint32_t address, int arrivals);
  void arrive(uint32_t address, int64_t bytes);
  void wait(uint32_t address, uint32_t parity);
  void copy(uint32_t barrier, uint32_t to, std::vector<uint8_t> bytes);
  const Deposit* meet(const Deposit& own);  // of all 32 lanes, until the next but one meeting

  void issue(const Product& product);
  void commit();
  void wait_products(size_t pending);

 private:
  struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool done = false;
    int64_t meetings = 0;
    std::vector<Product> open;
    std::vector<std::vector<Product>> groups;
  };
  struct Barrier {
    int arrivals = 0, pending = 0;
    int64_t bytes = 0;
    uint32_t phase = 0;
  };
  struct Warp {
    std::array<std::array<Deposit, 32>, 2> deposits;
  };
  struct Copy {
    uint32_t barrier, to;
    std::vector<uint8_t> bytes;
    int64_t ends;
  };
  static void enter();
  void finish_copies();
  void end_phase(Barrier& barrier);
  void run_product(const Product& product);
  float shared_value(uint64_t descriptor, int row, int k, bool rows_contiguous);

  std::mt19937 random_;
  std::vector<uint8_t> memory_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::map<uint32_t, Barrier> barriers_;
  std::vector<Copy> copies_;
  std::function<void(int)> body_;
  ucontext_t main_;
  int current_ = -1;
  int64_t idle_ = 0, time_ = 0;  // in turns of a warp
};

// The machine that runs now, for the functions that stand for instructions.
extern Machine* machine;

}  // namespace cadre::emulated
