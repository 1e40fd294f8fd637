// Blocks by copies out of each other's memory. A rank's rows and sums stand in its region (moe/peer_region.h); the others fetch
// theirs on a queue beside, with the GPU's copy engines, which read over NVLink while kernels have all multiprocessors: only the
// await of a round holds a warp. Lists are short and a kernel reads what is needed of them, in a lane of their own,
// so that slots are placed while rows are still on their way.
//
// Rounds take turns in the two parts of the region as in moe/peer_dispatch.h: what is written over was fetched by all ranks, as
// each joins its copies before it signals the next round of the first lane, and reads lists before, too.
#include "moe/gather_wire.h"
#include "moe/peer_region.h"
#include "parallel/device/bf16.h"

namespace cadre::moe {
namespace {

constexpr int kListLane = 1;

template <class T>
class CopyWire final : public GatherWire<T> {
 public:
  using typename GatherWire<T>::W;
  template <class U, int N>
  using View = device::View<U, N>;
  CopyWire(device::Queue& queue, const MoeKernels<T>& kernels, comm::PeerMemory& peers,
           const DispatchShape& shape)
      : queue_(queue), kernels_(kernels), peers_(peers), shape_(shape), region_(peers, shape) {}

  int rank() const override { return peers_.rank(); }
  int size() const override { return peers_.size(); }
  bool beside_kernels() const override { return true; }
  void reserve(device::Arena& scratch) override {
    tables_.reserve(scratch, size(), shape_);
    returned_ = scratch.take<W, 2>({size(), shape_.max_slots});
    region_.reserve(queue_, scratch.measuring());
  }

  void start_rows(View<const T, 2> own, View<T, 2> all, const char* label) override {
    peers_.enter(queue_, region_.boundary());
    device::Queue& beside = fork();
    copy(beside, region_.rows(own.dim(0)).data(), own.data(), own.dim(0));
    peers_.signal(beside, label, row_bytes(own.dim(0)));
    // Before the others come, who may be late.
    copy(beside, block(all, rank()), own.data(), own.dim(0));
    peers_.await(beside);
    fetch(beside, region_.all_rows(), all);
  }

  void start_lists(const Routing<T>& routing) override {
    kernels_.stage_slots(queue_, routing, region_.slots(), {});
    const uint64_t slot_bytes = sizeof(int32_t) + sizeof(W);
    peers_.signal(queue_, "moe.dispatch.slots", uint64_t(routing.num_slots) * slot_bytes, kListLane);
  }
  const SlotTables<T>& receive_lists(int first_expert, int local) override {
    peers_.await(queue_, kListLane);
    kernels_.pull_slots(queue_, region_.all_slots(), first_expert, local, tables_.offsets, tables_.token,
                        tables_.gate);
    return tables_;
  }

  View<T, 2> sums() override { return region_.sums(); }
  View<W, 2> gates() override { return region_.gate_grads(); }
  void start_sums(View<T, 2> inbox, const char* label) override {
    device::Queue& beside = fork();
    peers_.signal(beside, label, row_bytes((size() - 1) * shape_.max_tokens));
    peers_.await(beside);
    fetch(beside, region_.all_sums(), inbox);
    if (!gates_follow_) return;
    gates_follow_ = false;
    const PeerArrays<W> from = region_.all_gate_grads();
    for (int peer = 0; peer < size(); ++peer)
      peers_.copy(beside, returned_[peer].data(), from.of[peer], size_t(shape_.max_slots) * sizeof(W));
  }
  void start_gates() override { gates_follow_ = true; }
  View<const W, 2> returned_gates() const override { return returned_; }

  void wait() override {
    if (forked_) peers_.join(queue_);
    forked_ = false;
  }

 private:
  device::Queue& fork() {
    forked_ = true;
    return peers_.fork(queue_);
  }
  uint64_t row_bytes(int64_t rows) const { return uint64_t(rows * shape_.dim) * sizeof(T); }
  T* block(View<T, 2> all, int of) const { return all.data() + of * shape_.max_tokens * shape_.dim; }
  void copy(device::Queue& queue, T* to, const T* from, int64_t rows) {
    if (rows > 0) peers_.copy(queue, to, from, row_bytes(rows));
  }
  // The block of every other rank; each begins with the one after it, so that no rank is asked by all at a time.
  void fetch(device::Queue& queue, const PeerArrays<T>& from, View<T, 2> to) {
    for (int step = 1; step < size(); ++step) {
      const int peer = (rank() + step) % size();
      copy(queue, block(to, peer), from.of[peer], shape_.max_tokens);
    }
  }

  device::Queue& queue_;
  const MoeKernels<T>& kernels_;
  comm::PeerMemory& peers_;
  DispatchShape shape_;
  PeerRegion<T> region_;
  bool forked_ = false;        // and not joined since
  bool gates_follow_ = false;  // in the round of the next sums
  // Scratch.
  SlotTables<T> tables_;
  View<W, 2> returned_;  // (P, S)
};

}  // namespace

template <class T>
std::unique_ptr<GatherWire<T>> make_copy_wire(device::Queue& queue, const MoeKernels<T>& kernels,
                                              comm::PeerMemory& peers, const DispatchShape& shape) {
  return std::make_unique<CopyWire<T>>(queue, kernels, peers, shape);
}

template std::unique_ptr<GatherWire<float>> make_copy_wire(device::Queue&, const MoeKernels<float>&,
                                                           comm::PeerMemory&, const DispatchShape&);
template std::unique_ptr<GatherWire<double>> make_copy_wire(device::Queue&, const MoeKernels<double>&,
                                                            comm::PeerMemory&, const DispatchShape&);
template std::unique_ptr<GatherWire<device::bf16>> make_copy_wire(device::Queue&,
                                                                  const MoeKernels<device::bf16>&,
                                                                  comm::PeerMemory&, const DispatchShape&);

}  // namespace cadre::moe
