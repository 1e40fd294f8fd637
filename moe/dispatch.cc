#include "moe/dispatch.h"

#include "moe/exchange.h"
#include "moe/gather_dispatch.h"
#include "moe/peer_dispatch.h"
#include "parallel/base/errors.h"
#include "parallel/device/bf16.h"

namespace cadre::moe {
namespace {

// One rank holds all experts: the slots are the routing's, the rows are the tokens.
template <class T>
class LocalDispatcher final : public Dispatcher<T> {
 public:
  using typename Dispatcher<T>::W;
  LocalDispatcher(device::Queue& queue, const MoeKernels<T>& kernels, const DispatchShape& shape)
      : queue_(queue), kernels_(kernels), shape_(shape) {}

  void reserve(device::Arena& saved, device::Arena&) override {
    row_offsets_ = saved.take<int32_t, 1>({shape_.max_tokens + 1});
    row_slots_ = saved.take<int32_t, 1>({shape_.max_slots});
  }
  int64_t max_slots() const override { return shape_.max_slots; }

  void send_tokens(device::View<const T, 2> x, const Routing<T>& routing) override {
    slots_.rows = x;
    slots_.offsets = routing.expert_offsets;
    slots_.slot_row = slots_.slot_token = routing.slot_token.rows(0, routing.num_slots);
    slots_.slot_gate = routing.slot_gate.rows(0, routing.num_slots);
    slots_.row_offsets = routing.row_offsets;
    slots_.row_slots = routing.row_slots;
    slots_.slot_hint = {};
    if (shape_.hint_width > 0) slots_.slot_hint = routing.slot_hint.rows(0, routing.num_slots);
  }
  const ExpertSlots<T>& receive_tokens() override {
    if (!slots_.row_offsets.empty()) return slots_;
    const auto offsets = row_offsets_.rows(0, slots_.rows.dim(0) + 1);
    kernels_.slots_by_row(queue_, slots_.slot_row, offsets, row_slots_);
    slots_.row_offsets = offsets;
    slots_.row_slots = row_slots_.rows(0, slots_.num_slots());
    return slots_;
  }
  const ExpertSlots<T>& slots() const override { return slots_; }
  void combine(device::View<const T, 2> slot_output, bool accumulate, device::View<T, 2> y) override {
    kernels_.combine_rows(queue_, slot_output, slots_.row_offsets, slots_.row_slots, slots_.slot_gate,
                          accumulate, y);
  }
  bool combine_onto(device::View<const T, 2> slot_output, bool accumulate, device::View<const T, 2> plus,
                    device::View<T, 2> y) override {
    if (kernels_.combine_rows_onto == nullptr) return false;
    kernels_.combine_rows_onto(queue_, slot_output, slots_.row_offsets, slots_.row_slots, slots_.slot_gate,
                               accumulate, plus, y);
    return true;
  }
  void send_grad(device::View<const T, 2> dy) override { dy_ = dy; }
  device::View<const T, 2> receive_grad() override { return dy_; }
  void send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads, bool accumulate,
                 device::View<T, 2> dx) override {
    kernels_.combine_rows(queue_, slot_dx, slots_.row_offsets, slots_.row_slots, {}, accumulate, dx);
    grads_ = grads;
  }
  SlotGrads<T> receive_home() override { return grads_; }

 private:
  device::Queue& queue_;
  const MoeKernels<T>& kernels_;
  DispatchShape shape_;
  ExpertSlots<T> slots_;
  device::View<int32_t, 1> row_offsets_, row_slots_;
  device::View<const T, 2> dy_;
  SlotGrads<T> grads_;
};

}  // namespace

DispatchKind dispatch_kind(DispatchKind kind, bool widths, device::Queue& queue, comm::PeerMemory& peers) {
  if (kind != DispatchKind::kAuto) return kind;
  if (queue.kind() == device::DeviceKind::kCpu)
    return widths ? DispatchKind::kGather : DispatchKind::kExchange;
  return peers.reachable(queue) ? DispatchKind::kCopy : DispatchKind::kGather;
}

const char* about(DispatchKind kind) {
  switch (kind) {
    case DispatchKind::kGather:
      return "every row goes to all ranks of the group, sized by the largest micro-batch; the host reads no "
             "counts";
    case DispatchKind::kPeer:
      return "ranks read the rows that were routed to them from each other's memory; counts and places stay "
             "on the "
             "devices";
    case DispatchKind::kCopy:
      return "copy engines fetch every row from all ranks of the group, sized by the largest micro-batch; "
             "the host reads no counts";
    default:
      return "rows go where they were routed; counts travel ahead and the host reads them";
  }
}

template <class T>
std::unique_ptr<Dispatcher<T>> make_dispatcher(device::Queue& queue, const MoeKernels<T>& kernels,
                                               const DispatchGroup& ranks, const DispatchShape& shape,
                                               DispatchKind kind) {
  if (ranks.group.size() == 1) return std::make_unique<LocalDispatcher<T>>(queue, kernels, shape);
  kind = dispatch_kind(kind, shape.widths, queue, ranks.peers);
  require(!shape.widths || kind == DispatchKind::kGather || kind == DispatchKind::kCopy, ExitCode::kUsage,
          "moe.shares: width sends every row to all ranks, which moe.dispatch: {} does not; leave one of the "
          "two out",
          name_of(kind));
  if (kind == DispatchKind::kPeer)
    return std::make_unique<PeerDispatcher<T>>(queue, kernels, ranks.peers, shape);
  if (kind == DispatchKind::kGather)
    return std::make_unique<GatherDispatcher<T>>(
        queue, kernels, make_collective_wire(queue, kernels, ranks.group, shape), shape, name_of(kind));
  if (kind == DispatchKind::kCopy)
    return std::make_unique<GatherDispatcher<T>>(
        queue, kernels, make_copy_wire(queue, kernels, ranks.peers, shape), shape, name_of(kind));
  // The exchange reads counts and lists in host memory.
  if constexpr (!std::is_same_v<T, device::bf16>) {
    if (queue.kind() == device::DeviceKind::kCpu)
      return std::make_unique<ExchangeDispatcher<T>>(queue, kernels, ranks.group, shape);
  }
  fail(ExitCode::kUsage,
       "moe.dispatch: exchange runs on the CPU only; leave it out, or set gather, peer or copy");
}

template std::unique_ptr<Dispatcher<float>> make_dispatcher(device::Queue&, const MoeKernels<float>&,
                                                            const DispatchGroup&, const DispatchShape&,
                                                            DispatchKind);
template std::unique_ptr<Dispatcher<double>> make_dispatcher(device::Queue&, const MoeKernels<double>&,
                                                             const DispatchGroup&, const DispatchShape&,
                                                             DispatchKind);
template std::unique_ptr<Dispatcher<device::bf16>> make_dispatcher(device::Queue&,
                                                                   const MoeKernels<device::bf16>&,
                                                                   const DispatchGroup&, const DispatchShape&,
                                                                   DispatchKind);

}  // namespace cadre::moe
