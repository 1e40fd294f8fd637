// Moving tokens to the ranks that hold their experts, and results back. Forward: start_tokens, send_tokens,
// receive_tokens, (experts), combine; backward: send_grad, receive_grad, (experts), send_home, receive_home. Between a send
// and its receive the caller can compute something else. All ranks of the expert group call all of them, with any number
// of tokens.
#pragma once

#include <memory>

#include "moe/config.h"
#include "moe/kernels.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/peer_memory.h"
#include "parallel/device/memory.h"

namespace cadre::moe {

// The work of this rank's experts: R token rows, and A slots sorted by local expert that each read one row.
template <class T>
struct ExpertSlots {
  using W = device::wide_t<T>;
  device::View<const T, 2> rows;               // (R, D)
  device::View<const int64_t, 1> offsets;      // (E_local + 1) slots of each local expert
  device::View<const int32_t, 1> slot_row;     // (A), -1 behind the last slot; see Routing::num_slots
  device::View<const W, 1> slot_gate;          // (A)
  device::View<const T, 2> slot_hint;          // (A, r), empty without hints
  device::View<const int32_t, 1> slot_token;   // (A) for taps: expert rank * max_tokens + token on that rank
  device::View<const int32_t, 1> row_offsets;  // (R + 1), with row_slots: slots of each row, by rising expert
  device::View<const int32_t, 1> row_slots;    // (A)
  // (P + 1, E_local): slots of local expert e whose tokens are rank r's begin at [r][e] and end at [r + 1][e]. Empty: it does
  // not matter which outputs are there first.
  device::View<const int64_t, 2> rank_begins = {};
  int rank = 0;  // this one's
  int64_t num_slots() const { return slot_row.dim(0); }
};

// Gradients by slot: of this rank's experts, or, at home, of this rank's tokens.
template <class T>
struct SlotGrads {
  device::View<const device::wide_t<T>, 1> gate;  // (A)
  device::View<const T, 2> hint;                  // (A, r)
};

struct DispatchShape {
  int64_t dim = 0;         // D
  int64_t max_tokens = 0;  // T in the worst case
  int64_t max_slots = 0;   // of one rank's tokens
  int64_t num_experts = 0;
  int64_t hint_width = 0;  // r
  // Every rank holds a part of each expert's width: all slots go to all ranks, whose outputs and gradients add up.
  bool widths = false;
};

template <class T>
class Dispatcher {
 public:
  using W = device::wide_t<T>;
  virtual ~Dispatcher() = default;
  virtual void reserve(device::Arena& saved, device::Arena& scratch) = 0;
  virtual int64_t max_slots() const = 0;  // that this rank's experts can get

  // Before x is routed: what needs no routing may go on its way. x is borrowed as below.
  virtual void start_tokens(device::View<const T, 2> x) { (void)x; }
  // x and routing are borrowed until receive_home.
  virtual void send_tokens(device::View<const T, 2> x, const Routing<T>& routing) = 0;
  virtual const ExpertSlots<T>& receive_tokens() = 0;
  virtual const ExpertSlots<T>& slots() const = 0;  // of the last receive_tokens, until the next send_tokens
  // Where there are rank_begins, before combine: the outputs of slots of other ranks' tokens are there, and may leave.
  virtual void send_outputs(device::View<const T, 2> slot_output) { (void)slot_output; }
  // y[t] = (accumulate ? y[t] : 0) + sum of gate * output over the slots of token t: first those of one rank,
  // by rising expert, then the ranks in order.
  virtual void combine(device::View<const T, 2> slot_output, bool accumulate, device::View<T, 2> y) = 0;
  // The same and then y += plus; false, and nothing is done, where that is not one step.
  virtual bool combine_onto(device::View<const T, 2> slot_output, bool accumulate,
                            device::View<const T, 2> plus, device::View<T, 2> y) {
    (void)slot_output, (void)accumulate, (void)plus, (void)y;
    return false;
  }

  virtual void send_grad(device::View<const T, 2> dy) = 0;
  virtual device::View<const T, 2> receive_grad() = 0;  // (R, D), dy of each row
  // dx[t] = (accumulate ? dx[t] : 0) + sum of slot_dx over its slots, there after receive_home, as are the other
  // gradients by the routing's slots. What the queue is given in between may overwrite slot_dx; grads and dx are
  // borrowed.
  virtual void send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads, bool accumulate,
                         device::View<T, 2> dx) = 0;
  virtual SlotGrads<T> receive_home() = 0;
};

// What ranks reach each other by: `group` moves the queue's memory, `peers` are the same ranks, for DispatchKind::kPeer and kCopy.
struct DispatchGroup {
  comm::Communicator& group;
  comm::PeerMemory& peers;
};

// For an expert group of one rank nothing is copied or sent. Queue, kernels and group are borrowed. Throws
// Error(kUsage) for a kind that the device does not have, or that cannot share widths (gather and copy can).
template <class T>
std::unique_ptr<Dispatcher<T>> make_dispatcher(device::Queue& queue, const MoeKernels<T>& kernels,
                                               const DispatchGroup& ranks, const DispatchShape& shape,
                                               DispatchKind kind = DispatchKind::kAuto);
// What kAuto stands for, as in a run file: on GPUs copy where the ranks reach each other's memory, else gather; on the CPU exchange,
// or gather where ranks share widths. Collective the first time.
DispatchKind dispatch_kind(DispatchKind kind, bool widths, device::Queue& queue, comm::PeerMemory& peers);
// One line about a kind for the log: what travels, and what the host reads.
const char* about(DispatchKind kind);

}  // namespace cadre::moe
