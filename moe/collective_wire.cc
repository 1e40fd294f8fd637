// Blocks by the collectives of a group.
#include <vector>

#include "moe/gather_wire.h"
#include "parallel/device/bf16.h"

namespace cadre::moe {
namespace {

// `ranks` parts of one length, one after the other.
struct EvenParts {
  EvenParts(int ranks, int64_t count) : counts(ranks, count), begins(ranks) {
    for (int r = 0; r < ranks; ++r) begins[r] = r * count;
  }
  std::vector<int64_t> counts, begins;
};

template <class T>
class CollectiveWire final : public GatherWire<T> {
 public:
  using typename GatherWire<T>::W;
  template <class U, int N>
  using View = device::View<U, N>;
  CollectiveWire(device::Queue& queue, const MoeKernels<T>& kernels, comm::Communicator& group,
                 const DispatchShape& shape)
      : queue_(queue), kernels_(kernels), group_(group), shape_(shape) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  bool beside_kernels() const override { return false; }
  void reserve(device::Arena& scratch) override {
    const int64_t p = size();
    tables_.reserve(scratch, p, shape_);
    for (auto* view : {&gates_, &returned_}) *view = scratch.take<W, 2>({p, shape_.max_slots});
    sums_ = scratch.take<T, 2>({p * shape_.max_tokens, shape_.dim});
  }

  void start_rows(View<const T, 2> own, View<T, 2> all, const char* label) override {
    const int64_t tokens = own.dim(0);
    const T* from = own.data();
    if (tokens < shape_.max_tokens) {
      const View<T, 2> place = all.rows(rank() * shape_.max_tokens, tokens);
      kernels_.copy_rows(queue_, own, place);
      from = place.data();
    }
    gather(from, shape_.max_tokens * shape_.dim, all.data(), label);
  }

  void start_lists(const Routing<T>& routing) override {
    // The router's lists have room for max_slots, whatever is in use.
    assert(routing.slot_token.dim(0) >= shape_.max_slots && routing.slot_gate.dim(0) >= shape_.max_slots);
    group_.begin_together();
    gather(routing.expert_offsets.data(), shape_.num_experts + 1, tables_.offsets.data(),
           "moe.dispatch.offsets");
    gather(routing.slot_token.data(), shape_.max_slots, tables_.token.data(), "moe.dispatch.slots");
    gather(routing.slot_gate.data(), shape_.max_slots, tables_.gate.data(), "moe.dispatch.gates");
    group_.end_together();
  }
  const SlotTables<T>& receive_lists(int, int) override {
    wait();
    return tables_;
  }

  View<T, 2> sums() override { return sums_; }
  View<W, 2> gates() override { return gates_; }
  void start_sums(View<T, 2> inbox, const char* label) override {
    EvenParts parts(size(), shape_.max_tokens * shape_.dim);
    parts.counts[size_t(rank())] = 0;
    exchange(sums_.data(), inbox.data(), parts, label);
  }
  void start_gates() override {
    exchange(gates_.data(), returned_.data(), EvenParts(size(), shape_.max_slots), "moe.combine_grad.gates");
  }
  View<const W, 2> returned_gates() const override { return returned_; }

  void wait() override {
    for (comm::Request& request : requests_) request.then(queue_);
    requests_.clear();
  }

 private:
  template <class U>
  void gather(const U* own, int64_t count, U* all, const char* label) {
    const EvenParts parts(size(), count);
    requests_.push_back(
        group_.all_gather(own, count, all, parts.counts, parts.begins, comm::dtype_of<U>(), label));
  }
  template <class U>
  void exchange(const U* from, U* to, const EvenParts& parts, const char* label) {
    requests_.push_back(group_.all_to_all(from, parts.counts, parts.begins, to, parts.counts, parts.begins,
                                          comm::dtype_of<U>(), label));
  }

  device::Queue& queue_;
  const MoeKernels<T>& kernels_;
  comm::Communicator& group_;
  DispatchShape shape_;
  std::vector<comm::Request> requests_;
  // Scratch.
  SlotTables<T> tables_;
  View<T, 2> sums_;              // (P T, D)
  View<W, 2> gates_, returned_;  // (P, S)
};

}  // namespace

template <class T>
std::unique_ptr<GatherWire<T>> make_collective_wire(device::Queue& queue, const MoeKernels<T>& kernels,
                                                    comm::Communicator& group, const DispatchShape& shape) {
  return std::make_unique<CollectiveWire<T>>(queue, kernels, group, shape);
}

template std::unique_ptr<GatherWire<float>> make_collective_wire(device::Queue&, const MoeKernels<float>&,
                                                                 comm::Communicator&, const DispatchShape&);
template std::unique_ptr<GatherWire<double>> make_collective_wire(device::Queue&, const MoeKernels<double>&,
                                                                  comm::Communicator&, const DispatchShape&);
template std::unique_ptr<GatherWire<device::bf16>> make_collective_wire(device::Queue&,
                                                                        const MoeKernels<device::bf16>&,
                                                                        comm::Communicator&,
                                                                        const DispatchShape&);

}  // namespace cadre::moe
