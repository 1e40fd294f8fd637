// How the blocks of a GatherDispatcher travel between the ranks of an expert group: by collectives, or by copies out of each other's
// memory. Every block has the length of the largest micro-batch, and rank r's stands at place r, so that the host needs no
// counts. A journey begins after what the queue was given before, and is over for what it is given after wait().
#pragma once

#include <memory>

#include "moe/dispatch.h"

namespace cadre::moe {

// The lists of slots of every rank.
template <class T>
struct SlotTables {
  using W = device::wide_t<T>;
  void reserve(device::Arena& scratch, int64_t ranks, const DispatchShape& shape) {
    token = scratch.take<int32_t, 2>({ranks, shape.max_slots});
    gate = scratch.take<W, 2>({ranks, shape.max_slots});
    offsets = scratch.take<int64_t, 2>({ranks, shape.num_experts + 1});
  }
  device::View<int32_t, 2> token;    // (P, S)
  device::View<W, 2> gate;           // (P, S)
  device::View<int64_t, 2> offsets;  // (P, E + 1)
};

template <class T>
class GatherWire {
 public:
  using W = device::wide_t<T>;
  virtual ~GatherWire() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void reserve(device::Arena& scratch) = 0;
  // Whether journeys leave all multiprocessors to kernels beside them, so that it pays to begin one early with a part.
  virtual bool beside_kernels() const = 0;

  // This rank's rows to all ranks: all (P T, D). Of a shorter micro-batch the rest of a block is whatever was there.
  virtual void start_rows(device::View<const T, 2> own, device::View<T, 2> all, const char* label) = 0;
  // The lists of this rank's tokens to all ranks. What comes needs no wait(), and has at least the slots of the `local`
  // experts from first_expert on.
  virtual void start_lists(const Routing<T>& routing) = 0;
  virtual const SlotTables<T>& receive_lists(int first_expert, int local) = 0;

  // Where sums (P T, D) and gradients of gates (P, S) are written for their ranks to get them.
  virtual device::View<T, 2> sums() = 0;
  virtual device::View<W, 2> gates() = 0;
  // What was written for this rank comes into its blocks of `inbox` (P T, D), but for its own.
  virtual void start_sums(device::View<T, 2> inbox, const char* label) = 0;
  // Before start_sums, where there are gates: those for this rank's slots, (P, S) by the rank that wrote them, after wait().
  virtual void start_gates() = 0;
  virtual device::View<const W, 2> returned_gates() const = 0;

  virtual void wait() = 0;
};

// By the collectives of a group; what is borrowed outlives the wire.
template <class T>
std::unique_ptr<GatherWire<T>> make_collective_wire(device::Queue& queue, const MoeKernels<T>& kernels,
                                                    comm::Communicator& group, const DispatchShape& shape);
// By the copy engines of GPUs that reach each other.
template <class T>
std::unique_ptr<GatherWire<T>> make_copy_wire(device::Queue& queue, const MoeKernels<T>& kernels,
                                              comm::PeerMemory& peers, const DispatchShape& shape);

}  // namespace cadre::moe
