#include "tests/device/cuda/emulated/machine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>

namespace cadre::emulated {

Machine* machine = nullptr;

namespace {

// Of fibers, for one block after the other.
char* stack_of(size_t thread, size_t bytes) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= thread) stacks.emplace_back(new char[bytes]);
  return stacks[thread].get();
}

}  // namespace

void Machine::enter() {
  Machine& m = *machine;
  try {
    m.body_(m.current_);
  } catch (...) {
    if (!m.error_) m.error_ = std::current_exception();
  }
  m.end_thread();
  m.yield();
}

void Machine::run(int threads, const std::function<void(int)>& body) {
  constexpr size_t kStack = 64 << 10;
  machine = this;
  body_ = body;
  live_ = threads;
  warps_.resize(size_t(threads + 31) / 32);
  for (int i = 0; i < threads; ++i) {
    threads_.push_back(std::make_unique<Thread>());
    Thread& t = *threads_.back();
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = stack_of(size_t(i), kStack);
    t.context.uc_stack.ss_size = kStack;
    t.context.uc_link = &main_;
    makecontext(&t.context, &Machine::enter, 0);
  }
  while (live_ > 0 && !error_) {
    turn(int(random_() % warps_.size()));
    ++time_;
    finish_copies();
    if (++idle_ > 200000) throw std::runtime_error("no thread of the block can go on");
  }
  if (error_) std::rethrow_exception(error_);
  if (!copies_.empty()) throw std::runtime_error("the block ended before its copies");
}

void Machine::turn(int warp) {
  for (int i = warp * 32; i < std::min(warp * 32 + 32, int(threads_.size())); ++i) {
    Thread& t = *threads_[size_t(i)];
    if (t.done || (t.watched != nullptr && *t.watched == t.value)) continue;
    current_ = i;
    idle_ = 0;
    swapcontext(&main_, &t.context);
  }
}

// Those that wait for all threads have one less to wait for.
void Machine::end_thread() {
  Thread& t = *threads_[size_t(current_)];
  if (!(t.stores.empty() && t.open_stores.empty()) && !error_)
    error_ = std::make_exception_ptr(std::runtime_error("a thread ended before its stores"));
  t.done = true;
  all_waited_ = all_waited_ && t.waited;
  --live_;
  for (Meeting* const meeting : {&sync_, &before_}) {
    if (meeting->arrived == 0 || meeting->arrived < live_) continue;
    meeting->arrived = 0;
    ++meeting->round;
  }
}

void Machine::yield() {
  swapcontext(&threads_[size_t(current_)]->context, &main_);
}
void Machine::wait_while(const uint32_t& watched, uint32_t value) {
  Thread& t = *threads_[size_t(current_)];
  t.watched = &watched;
  t.value = value;
  while (watched == value) yield();
  t.watched = nullptr;
}

uint8_t* Machine::at(uint32_t address) {
  if (address >= kSharedBytes) throw std::runtime_error("an address is outside the block's shared memory");
  return memory_ + address;
}
uint32_t Machine::place_shared(const void* memory) {
  memory_ = static_cast<uint8_t*>(const_cast<void*>(memory));
  return 0;
}

// True for the thread that is the last of `expected` to come; the others come back when it has come.
bool Machine::last_at(Meeting& meeting, int expected) {
  const uint32_t round = meeting.round;
  if (++meeting.arrived < expected) return wait_while(meeting.round, round), false;
  meeting.arrived = 0;
  ++meeting.round;
  return true;
}
void Machine::sync_block() {
  last_at(sync_, live_);
}
void Machine::wait_for_kernel_before(const std::function<void()>& begin) {
  threads_[size_t(current_)]->waited = true;
  if (last_at(before_, live_)) begin();
}

void Machine::sync_warpgroup(int number) {
  last_at(warpgroups_.at(size_t(number)), 128);
}

void Machine::barrier_init(uint32_t address, int arrivals) {
  if (address % 8 != 0) throw std::runtime_error("a barrier is not aligned");
  barriers_[address] = {arrivals, arrivals, 0, 0};
}
void Machine::end_phase(Barrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  b.pending = b.arrivals;
  b.phase ^= 1;
}
void Machine::arrive(uint32_t address, int64_t bytes) {
  Barrier& b = barriers_.at(address);
  if (--b.pending < 0) throw std::runtime_error("more arrivals than a barrier expects");
  b.bytes += bytes;
  end_phase(b);
}
void Machine::wait(uint32_t address, uint32_t parity) {
  wait_while(barriers_.at(address).phase, parity);
}

// The place is lost when the copy begins, and there when it ends.
void Machine::copy(uint32_t barrier, uint32_t to, std::vector<uint8_t> bytes) {
  if (to % 16 != 0) throw std::runtime_error("a copy is not aligned");
  at(to + uint32_t(bytes.size()) - 1);
  std::memset(at(to), 0xff, bytes.size());
  // From at once to longer than a tile takes to be multiplied.
  copies_.push_back(
      {barrier, to, std::move(bytes), time_ + int64_t(random_() % (random_() % 2 == 0 ? 20 : 2000))});
}
void Machine::finish_copies() {
  for (size_t i = 0; i < copies_.size();) {
    if (copies_[i].ends > time_) {
      ++i;
      continue;
    }
    const Copy copy = std::move(copies_[i]);
    copies_.erase(copies_.begin() + int64_t(i));
    std::memcpy(at(copy.to), copy.bytes.data(), copy.bytes.size());
    Barrier& b = barriers_.at(copy.barrier);
    b.bytes -= int64_t(copy.bytes.size());
    end_phase(b);
  }
}

// What is read is what lies there when the store is done, at the latest moment or at once.
void Machine::store(uint8_t* to, uint32_t from, uint32_t bytes, bool adds) {
  if (from % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0)
    throw std::runtime_error("a store is not aligned");
  threads_[size_t(current_)]->open_stores.push_back({to, from, bytes, adds});
}
void Machine::commit_stores() {
  Thread& t = *threads_[size_t(current_)];
  t.stores.push_back(std::move(t.open_stores));
  t.open_stores.clear();
  if (random_() % 2 == 0) wait_stores(0);
}
// Those that were committed are done in any order: the last first.
void Machine::wait_stores(size_t pending) {
  Thread& t = *threads_[size_t(current_)];
  while (t.stores.size() > pending) {
    const auto group = t.stores.begin() + int64_t(t.stores.size() - pending) - 1;
    for (const Store& s : *group) finish_store(s);
    t.stores.erase(group);
  }
}
void Machine::finish_store(const Store& s) {
  if (!s.adds) {
    std::memcpy(s.to, at(s.from), s.bytes);
    return;
  }
  for (uint32_t i = 0; i < s.bytes; i += 4) {
    float sum, value;
    std::memcpy(&sum, s.to + i, 4);
    std::memcpy(&value, at(s.from + i), 4);
    sum += value;
    std::memcpy(s.to + i, &sum, 4);
  }
}

const Deposit* Machine::meet(const Deposit& own) {
  Warp& warp = warps_[size_t(current_ / 32)];
  auto& deposits = warp.deposits[warp.meeting.round % 2];
  deposits[size_t(current_ % 32)] = own;
  last_at(warp.meeting, 32);
  for (const Deposit& d : deposits)
    if (d.what != own.what) throw std::runtime_error("the lanes of a warp are at different instructions");
  return deposits.data();
}

void Machine::issue(const Product& product) {
  threads_[size_t(current_)]->open.push_back(product);
}
void Machine::commit() {
  Thread& t = *threads_[size_t(current_)];
  t.groups.push_back(std::move(t.open));
  t.open.clear();
  if (random_() % 2 == 0) wait_products(0);  // as early as it may be
}
void Machine::wait_products(size_t pending) {
  Thread& t = *threads_[size_t(current_)];
  while (t.groups.size() > pending) {
    for (const Product& p : t.groups.front()) run_product(p);
    t.groups.erase(t.groups.begin());
  }
}

// PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout": groups of 8 lines of 128 bytes, whose 16-byte
// units are swapped by the address. Lines hold 64 of the contraction (K-major) or 64 rows (MN-major).
float Machine::shared_value(uint64_t descriptor, int row, int k, bool rows_contiguous) {
  if (descriptor >> 62 != 1) throw std::runtime_error("not a layout of 128-byte lines");
  const uint32_t start = uint32_t(descriptor & 0x3fff) << 4,
                 leading = uint32_t(descriptor >> 16 & 0x3fff) << 4,
                 stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
  uint32_t address = rows_contiguous ? start + uint32_t(row / 64) * leading + uint32_t(k / 8) * stride +
                                           uint32_t(k % 8 * 128 + row % 64 * 2)
                                     : start + uint32_t(row / 8) * stride + uint32_t(row % 8 * 128 + k * 2);
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, at(address), 2);
  return std::bit_cast<float>(uint32_t(bits) << 16);
}

// d (64, columns) = (keep ? d : 0) + a (64, 16) b (columns, 16)^T: this thread's part, rows 16 warp + lane / 4 and 8 below.
void Machine::run_product(const Product& p) {
  const int lane = current_ % 32, first = current_ / 32 % 4 * 16 + lane / 4;
  float a[2][16];
  for (int h = 0; h < 2; ++h) {
    for (int k = 0; k < 16; ++k) {
      if (p.from_registers) {
        const uint32_t pair = p.quad[size_t(k % 8 / 2)][size_t(k / 8 * 2 + h)];
        a[h][k] = std::bit_cast<float>(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
      } else {
        a[h][k] = shared_value(p.a, first + 8 * h, k, p.a_across);
      }
    }
  }
  for (int j = 0; j < p.columns / 8; ++j) {
    for (int e = 0; e < 2; ++e) {
      const int column = j * 8 + lane % 4 * 2 + e;
      float sum[2] = {0, 0};
      for (int k = 0; k < 16; ++k) {
        const float b = shared_value(p.b, column, k, p.b_across);
        for (int h = 0; h < 2; ++h) sum[h] += a[h][k] * b;
      }
      for (int h = 0; h < 2; ++h) {
        float& d = p.d[j * 4 + h * 2 + e];
        d = (p.keep ? d : 0) + sum[h];
      }
    }
  }
}

}  // namespace cadre::emulated
