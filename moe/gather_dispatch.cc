#include "moe/gather_dispatch.h"

#include <vector>

#include "moe/known_places.h"
#include "parallel/device/bf16.h"
#include "parallel/device/transfer.h"

namespace cadre::moe {

template <class T>
GatherDispatcher<T>::GatherDispatcher(device::Queue& queue, const MoeKernels<T>& kernels,
                                      std::unique_ptr<GatherWire<T>> wire, const DispatchShape& shape,
                                      const char* name)
    : queue_(queue),
      kernels_(kernels),
      wire_(std::move(wire)),
      shape_(shape),
      ranks_(wire_->size()),
      local_experts_(experts_of_a_rank(shape, ranks_)) {
  require_known_places(shape, ranks_, name);
}

template <class T>
int64_t GatherDispatcher<T>::max_slots() const {
  return most_slots(shape_, ranks_);
}

template <class T>
void GatherDispatcher<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t rows = ranks_ * shape_.max_tokens, slots = max_slots();
  home_offsets_ = saved.take<int32_t, 1>({shape_.max_tokens + 1});
  home_rows_ = saved.take<int32_t, 1>({rows});
  received_ = saved.take<T, 2>({rows, shape_.dim});
  offsets_ = saved.take<int64_t, 1>({local_experts_ + 1});
  for (auto* view : {&slot_row_, &slot_source_, &row_slots_}) *view = saved.take<int32_t, 1>({slots});
  slot_gate_ = saved.take<W, 1>({slots});
  row_offsets_ = saved.take<int32_t, 1>({rows + 1});

  wire_->reserve(scratch);
  if (wire_->beside_kernels()) rank_begins_ = scratch.take<int64_t, 2>({ranks_ + 1, local_experts_});
  inbox_ = scratch.take<T, 2>({rows, shape_.dim});
  home_gate_ = scratch.take<W, 1>({shape_.max_slots});
  tables_ready_ = false;
}

template <class T>
void GatherDispatcher<T>::start_tokens(device::View<const T, 2> x) {
  if (!tables_ready_) {
    std::vector<int32_t> offsets(size_t(shape_.max_tokens) + 1), rows;
    for (int64_t t = 0; t <= shape_.max_tokens; ++t) offsets[size_t(t)] = int32_t(t * ranks_);
    for (int64_t t = 0; t < shape_.max_tokens; ++t)
      for (int r = 0; r < ranks_; ++r) rows.push_back(int32_t(r * shape_.max_tokens + t));
    device::upload(queue_, offsets, home_offsets_);
    device::upload(queue_, rows, home_rows_);
    tables_ready_ = true;
  }
  wire_->start_rows(x, received_, "moe.dispatch.rows");
}

template <class T>
void GatherDispatcher<T>::send_tokens(device::View<const T, 2>, const Routing<T>& routing) {
  routing_ = &routing;
  wire_->start_lists(routing);
}

template <class T>
const ExpertSlots<T>& GatherDispatcher<T>::receive_tokens() {
  const int first = first_expert(shape_, ranks_, wire_->rank());
  const SlotTables<T>& tables = wire_->receive_lists(first, int(local_experts_));
  kernels_.place_slots(queue_,
                       {.first_expert = first,
                        .max_tokens = shape_.max_tokens,
                        .token = tables.token,
                        .gate = tables.gate,
                        .offsets = tables.offsets},
                       {.offsets = offsets_,
                        .row = slot_row_,
                        .source = slot_source_,
                        .gate = slot_gate_,
                        .rank_begins = rank_begins_});
  kernels_.slots_by_row(queue_, slot_row_, row_offsets_, row_slots_);
  wire_->wait();
  work_ = {.rows = received_,
           .offsets = offsets_,
           .slot_row = slot_row_,
           .slot_gate = slot_gate_,
           .slot_hint = {},
           .slot_token = slot_row_,  // the blocks of rows are the ranks'
           .row_offsets = row_offsets_,
           .row_slots = row_slots_,
           .rank_begins = rank_begins_,
           .rank = wire_->rank()};
  return work_;
}

template <class T>
void GatherDispatcher<T>::sum_block(int rank, device::View<const T, 2> slot_rows,
                                    device::View<const W, 1> weight, device::View<T, 2> to) {
  const int64_t begin = rank * shape_.max_tokens;
  kernels_.combine_rows(queue_, slot_rows, row_offsets_.rows(begin, shape_.max_tokens + 1), row_slots_,
                        weight, false, to.rows(begin, shape_.max_tokens));
}

template <class T>
void GatherDispatcher<T>::return_rows(device::View<const T, 2> slot_rows, device::View<const W, 1> weight,
                                      const char* label) {
  for (int rank = 0; rank < ranks_; ++rank)
    if (rank != wire_->rank()) sum_block(rank, slot_rows, weight, wire_->sums());
  wire_->start_sums(inbox_, label);
}

template <class T>
void GatherDispatcher<T>::add_returned(bool accumulate, device::View<T, 2> out) {
  wire_->wait();
  kernels_.combine_rows(queue_, inbox_, home_offsets(out.dim(0)), home_rows_, {}, accumulate, out);
}

template <class T>
void GatherDispatcher<T>::send_outputs(device::View<const T, 2> slot_output) {
  return_rows(slot_output, slot_gate_, "moe.combine.rows");
  outputs_sent_ = true;
}

// The rows of other ranks first: this rank's own are added up while those travel.
template <class T>
void GatherDispatcher<T>::finish_outputs(device::View<const T, 2> slot_output) {
  if (!outputs_sent_) send_outputs(slot_output);
  outputs_sent_ = false;
  sum_block(wire_->rank(), slot_output, slot_gate_, inbox_);
}

template <class T>
void GatherDispatcher<T>::combine(device::View<const T, 2> slot_output, bool accumulate,
                                  device::View<T, 2> y) {
  finish_outputs(slot_output);
  add_returned(accumulate, y);
}

template <class T>
bool GatherDispatcher<T>::combine_onto(device::View<const T, 2> slot_output, bool accumulate,
                                       device::View<const T, 2> plus, device::View<T, 2> y) {
  if (kernels_.combine_rows_onto == nullptr) return false;
  finish_outputs(slot_output);
  wire_->wait();
  kernels_.combine_rows_onto(queue_, inbox_, home_offsets(y.dim(0)), home_rows_, {}, accumulate, plus, y);
  return true;
}

template <class T>
void GatherDispatcher<T>::send_grad(device::View<const T, 2> dy) {
  wire_->start_rows(dy, inbox_, "moe.dispatch_grad.rows");
}

template <class T>
device::View<const T, 2> GatherDispatcher<T>::receive_grad() {
  wire_->wait();
  return inbox_;
}

template <class T>
void GatherDispatcher<T>::send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads,
                                    bool accumulate, device::View<T, 2> dx) {
  adds_to_dx_ = accumulate;
  dx_ = dx;
  kernels_.scatter_gates(queue_, grads.gate, slot_source_, wire_->gates());
  wire_->start_gates();
  return_rows(slot_dx, {}, "moe.combine_grad.rows");
  sum_block(wire_->rank(), slot_dx, {}, inbox_);
}

template <class T>
SlotGrads<T> GatherDispatcher<T>::receive_home() {
  add_returned(adds_to_dx_, dx_);
  const auto gather = shape_.widths ? kernels_.sum_gates : kernels_.collect_gates;
  gather(queue_, wire_->returned_gates(), routing_->expert_offsets, home_gate_);
  return {home_gate_.rows(0, routing_->num_slots), {}};
}

template class GatherDispatcher<float>;
template class GatherDispatcher<double>;
template class GatherDispatcher<device::bf16>;

}  // namespace cadre::moe
