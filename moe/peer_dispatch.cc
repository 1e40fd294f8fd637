#include "moe/peer_dispatch.h"

#include "moe/known_places.h"
#include "parallel/device/bf16.h"

namespace cadre::moe {

template <class T>
PeerDispatcher<T>::PeerDispatcher(device::Queue& queue, const MoeKernels<T>& kernels, comm::PeerMemory& peers,
                                  const DispatchShape& shape)
    : queue_(queue),
      kernels_(kernels),
      peers_(peers),
      shape_(shape),
      ranks_(peers.size()),
      local_experts_(shape.num_experts / peers.size()),
      region_(peers, shape) {
  require_known_places(shape, ranks_, "peer");
}

template <class T>
int64_t PeerDispatcher<T>::max_slots() const {
  return most_slots(shape_, ranks_);
}

template <class T>
void PeerDispatcher<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t rows = ranks_ * shape_.max_tokens, slots = max_slots(), width = shape_.max_slots, p = ranks_;
  takes_ = saved.take<uint8_t, 2>({p, shape_.max_tokens});
  received_ = saved.take<T, 2>({rows, shape_.dim});
  offsets_ = saved.take<int64_t, 1>({local_experts_ + 1});
  for (auto* view : {&slot_row_, &slot_source_, &row_slots_}) *view = saved.take<int32_t, 1>({slots});
  slot_gate_ = saved.take<W, 1>({slots});
  row_offsets_ = saved.take<int32_t, 1>({rows + 1});

  table_offsets_ = scratch.take<int64_t, 2>({p, shape_.num_experts + 1});
  table_token_ = scratch.take<int32_t, 2>({p, width});
  table_gate_ = scratch.take<W, 2>({p, width});
  drows_ = scratch.take<T, 2>({rows, shape_.dim});
  home_gate_ = scratch.take<W, 1>({width});
  region_.reserve(queue_, saved.measuring());
}

// Rows wait for the lists of slots: which of them others read is in those.
template <class T>
void PeerDispatcher<T>::start_tokens(device::View<const T, 2> x) {
  peers_.enter(queue_, region_.boundary());
  kernels_.copy_rows(queue_, x, region_.rows(x.dim(0)));
}

// What follows the signal runs beside what the queue is given until receive_tokens.
template <class T>
void PeerDispatcher<T>::send_tokens(device::View<const T, 2> x, const Routing<T>& routing) {
  routing_ = &routing;
  kernels_.stage_slots(queue_, routing, region_.slots(), takes_);
  peers_.signal(queue_, "moe.dispatch.rows", row_bytes(x.dim(0)));
  device::Queue& beside = peers_.fork(queue_);
  peers_.await(beside);
  const int first = int(peers_.rank() * local_experts_);
  kernels_.pull_slots(beside, region_.all_slots(), first, int(local_experts_), table_offsets_, table_token_,
                      table_gate_);
  kernels_.place_slots(beside,
                       {.first_expert = first,
                        .max_tokens = shape_.max_tokens,
                        .token = table_token_,
                        .gate = table_gate_,
                        .offsets = table_offsets_},
                       {.offsets = offsets_, .row = slot_row_, .source = slot_source_, .gate = slot_gate_});
  kernels_.slots_by_row(beside, slot_row_, row_offsets_, row_slots_);
  kernels_.pull_rows(beside, region_.all_rows(), row_offsets_, received_);
}

template <class T>
const ExpertSlots<T>& PeerDispatcher<T>::receive_tokens() {
  peers_.join(queue_);
  work_ = {.rows = received_,
           .offsets = offsets_,
           .slot_row = slot_row_,
           .slot_gate = slot_gate_,
           .slot_hint = {},
           .slot_token = slot_row_,  // the blocks of rows are the ranks'
           .row_offsets = row_offsets_,
           .row_slots = row_slots_};
  return work_;
}

// The rows of other ranks first: this rank's own are added up while the others come to read those.
template <class T>
void PeerDispatcher<T>::offer_sums(device::View<const T, 2> slot_rows, device::View<const W, 1> weight,
                                   const char* label) {
  const int64_t tokens = shape_.max_tokens;
  const int self = peers_.rank();
  const auto sums = region_.sums();
  const auto sum_block = [&](int rank) {
    kernels_.combine_rows(queue_, slot_rows, row_offsets_.rows(rank * tokens, tokens + 1), row_slots_, weight,
                          false, sums.rows(rank * tokens, tokens));
  };
  for (int rank = 0; rank < ranks_; ++rank)
    if (rank != self) sum_block(rank);
  peers_.signal(queue_, label, row_bytes((ranks_ - 1) * tokens));
  sum_block(self);
}

template <class T>
void PeerDispatcher<T>::read_sums(device::Queue& queue, bool accumulate, device::View<T, 2> out) {
  peers_.await(queue);
  kernels_.pull_sums(queue, region_.all_sums(), takes_, accumulate, out);
}

template <class T>
void PeerDispatcher<T>::combine(device::View<const T, 2> slot_output, bool accumulate, device::View<T, 2> y) {
  offer_sums(slot_output, slot_gate_, "moe.combine.rows");
  read_sums(queue_, accumulate, y);
}

template <class T>
void PeerDispatcher<T>::send_grad(device::View<const T, 2> dy) {
  peers_.enter(queue_, region_.boundary());
  kernels_.copy_rows(queue_, dy, region_.rows(dy.dim(0)));
  peers_.signal(queue_, "moe.dispatch_grad.rows", row_bytes(dy.dim(0)));
  device::Queue& beside = peers_.fork(queue_);
  peers_.await(beside);
  kernels_.pull_rows(beside, region_.all_rows(), row_offsets_, drows_);
}

template <class T>
device::View<const T, 2> PeerDispatcher<T>::receive_grad() {
  peers_.join(queue_);
  return drows_;
}

// The reads run beside what the queue is given until receive_home.
template <class T>
void PeerDispatcher<T>::send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads,
                                  bool accumulate, device::View<T, 2> dx) {
  kernels_.scatter_gates(queue_, grads.gate, slot_source_, region_.gate_grads());
  offer_sums(slot_dx, {}, "moe.combine_grad.rows");
  device::Queue& beside = peers_.fork(queue_);
  read_sums(beside, accumulate, dx);
  kernels_.pull_gates(beside, region_.all_gate_grads(), routing_->expert_offsets, home_gate_);
}

template <class T>
SlotGrads<T> PeerDispatcher<T>::receive_home() {
  peers_.join(queue_);
  return {home_gate_.rows(0, routing_->num_slots), {}};
}

template class PeerDispatcher<float>;
template class PeerDispatcher<double>;
template class PeerDispatcher<device::bf16>;

}  // namespace cadre::moe
