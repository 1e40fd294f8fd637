#include "moe/gather_dispatch.h"

#include <numeric>

#include "moe/known_places.h"
#include "parallel/device/bf16.h"
#include "parallel/device/transfer.h"

namespace cadre::moe {
namespace {

// `ranks` parts of one length, one after the other.
struct EvenParts {
  EvenParts(int ranks, int64_t count) : counts(ranks, count), begins(ranks) {
    for (int r = 0; r < ranks; ++r) begins[r] = r * count;
  }
  std::vector<int64_t> counts, begins;
};

}  // namespace

template <class T>
GatherDispatcher<T>::GatherDispatcher(device::Queue& queue, const MoeKernels<T>& kernels,
                                      comm::Communicator& group, const DispatchShape& shape)
    : queue_(queue),
      kernels_(kernels),
      group_(group),
      shape_(shape),
      ranks_(group.size()),
      local_experts_(experts_of_a_rank(shape, group.size())) {
  require_known_places(shape, ranks_, "gather");
}

template <class T>
int64_t GatherDispatcher<T>::max_slots() const {
  return most_slots(shape_, ranks_);
}

template <class T>
void GatherDispatcher<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t rows = ranks_ * shape_.max_tokens, slots = max_slots(), width = shape_.max_slots, p = ranks_;
  home_offsets_ = saved.take<int32_t, 1>({shape_.max_tokens + 1});
  home_rows_ = saved.take<int32_t, 1>({rows});
  identity_ = saved.take<int32_t, 1>({shape_.max_tokens});
  received_ = saved.take<T, 2>({rows, shape_.dim});
  offsets_ = saved.take<int64_t, 1>({local_experts_ + 1});
  for (auto* view : {&slot_row_, &slot_source_, &row_slots_}) *view = saved.take<int32_t, 1>({slots});
  slot_gate_ = saved.take<W, 1>({slots});
  row_offsets_ = saved.take<int32_t, 1>({rows + 1});

  table_token_ = scratch.take<int32_t, 2>({p, width});
  for (auto* view : {&table_gate_, &wire_gate_, &returned_gate_}) *view = scratch.take<W, 2>({p, width});
  table_offsets_ = scratch.take<int64_t, 2>({p, shape_.num_experts + 1});
  for (auto* view : {&inbox_, &sums_}) *view = scratch.take<T, 2>({rows, shape_.dim});
  home_gate_ = scratch.take<W, 1>({width});
  tables_ready_ = false;
}

template <class T>
void GatherDispatcher<T>::wait() {
  for (comm::Request& request : requests_) request.then(queue_);
  requests_.clear();
}

template <class T>
template <class U>
comm::Request GatherDispatcher<T>::gather_table(const U* own, int64_t count, U* all, const char* label) {
  const EvenParts parts(ranks_, count);
  return group_.all_gather(own, count, all, parts.counts, parts.begins, comm::dtype_of<U>(), label);
}

// The blocks are of max_tokens rows on every rank; of a shorter micro-batch the rest is whatever was there.
template <class T>
comm::Request GatherDispatcher<T>::gather_rows(device::View<const T, 2> own, device::View<T, 2> all,
                                               const char* label) {
  const device::View<T, 2> place = block(all, group_.rank());
  const int64_t tokens = own.dim(0);
  const T* from = own.data();
  if (tokens < shape_.max_tokens) {
    kernels_.gather_rows(queue_, own, identity_.rows(0, tokens), place.rows(0, tokens));
    from = place.data();
  }
  return gather_table(from, shape_.max_tokens * shape_.dim, all.data(), label);
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
    std::vector<int32_t> identity(size_t(shape_.max_tokens));
    std::iota(identity.begin(), identity.end(), 0);
    device::upload(queue_, identity, identity_);
    tables_ready_ = true;
  }
  requests_.push_back(gather_rows(x, received_, "moe.dispatch.rows"));
}

template <class T>
void GatherDispatcher<T>::send_tokens(device::View<const T, 2>, const Routing<T>& routing) {
  routing_ = &routing;
  // The router's lists have room for max_slots, whatever is in use.
  assert(routing.slot_token.dim(0) >= shape_.max_slots && routing.slot_gate.dim(0) >= shape_.max_slots);
  group_.begin_together();
  requests_.push_back(gather_table(routing.expert_offsets.data(), shape_.num_experts + 1,
                                   table_offsets_.data(), "moe.dispatch.offsets"));
  requests_.push_back(
      gather_table(routing.slot_token.data(), shape_.max_slots, table_token_.data(), "moe.dispatch.slots"));
  requests_.push_back(
      gather_table(routing.slot_gate.data(), shape_.max_slots, table_gate_.data(), "moe.dispatch.gates"));
  group_.end_together();
}

template <class T>
const ExpertSlots<T>& GatherDispatcher<T>::receive_tokens() {
  wait();
  kernels_.place_slots(queue_,
                       {.first_expert = first_expert(shape_, ranks_, group_.rank()),
                        .max_tokens = shape_.max_tokens,
                        .token = table_token_,
                        .gate = table_gate_,
                        .offsets = table_offsets_},
                       {.offsets = offsets_, .row = slot_row_, .source = slot_source_, .gate = slot_gate_});
  kernels_.slots_by_row(queue_, slot_row_, row_offsets_, row_slots_);
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

// The rows of other ranks first: this rank's own are added up while those travel.
template <class T>
void GatherDispatcher<T>::return_rows(device::View<const T, 2> slot_rows, device::View<const W, 1> weight,
                                      const char* label) {
  const int self = group_.rank();
  const auto sum_block = [&](int rank, device::View<T, 2> to) {
    kernels_.combine_rows(queue_, slot_rows,
                          row_offsets_.rows(rank * shape_.max_tokens, shape_.max_tokens + 1), row_slots_,
                          weight, false, block(to, rank));
  };
  for (int rank = 0; rank < ranks_; ++rank)
    if (rank != self) sum_block(rank, sums_);
  EvenParts parts(ranks_, shape_.max_tokens * shape_.dim);
  parts.counts[size_t(self)] = 0;
  requests_.push_back(group_.all_to_all(sums_.data(), parts.counts, parts.begins, inbox_.data(), parts.counts,
                                        parts.begins, comm::dtype_of<T>(), label));
  sum_block(self, inbox_);
}

template <class T>
void GatherDispatcher<T>::add_returned(bool accumulate, device::View<T, 2> out) {
  wait();
  const int64_t tokens = out.dim(0);
  kernels_.combine_rows(queue_, inbox_, home_offsets_.rows(0, tokens + 1), home_rows_, {}, accumulate, out);
}

template <class T>
void GatherDispatcher<T>::combine(device::View<const T, 2> slot_output, bool accumulate,
                                  device::View<T, 2> y) {
  return_rows(slot_output, slot_gate_, "moe.combine.rows");
  add_returned(accumulate, y);
}

template <class T>
void GatherDispatcher<T>::send_grad(device::View<const T, 2> dy) {
  requests_.push_back(gather_rows(dy, inbox_, "moe.dispatch_grad.rows"));
}

template <class T>
device::View<const T, 2> GatherDispatcher<T>::receive_grad() {
  wait();
  return inbox_;
}

template <class T>
void GatherDispatcher<T>::send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads,
                                    bool accumulate, device::View<T, 2> dx) {
  adds_to_dx_ = accumulate;
  dx_ = dx;
  kernels_.scatter_gates(queue_, grads.gate, slot_source_, wire_gate_);
  const EvenParts parts(ranks_, shape_.max_slots);
  requests_.push_back(group_.all_to_all(wire_gate_.data(), parts.counts, parts.begins, returned_gate_.data(),
                                        parts.counts, parts.begins, comm::dtype_of<W>(),
                                        "moe.combine_grad.gates"));
  return_rows(slot_dx, {}, "moe.combine_grad.rows");
}

template <class T>
SlotGrads<T> GatherDispatcher<T>::receive_home() {
  add_returned(adds_to_dx_, dx_);
  const auto gather = shape_.widths ? kernels_.sum_gates : kernels_.collect_gates;
  gather(queue_, returned_gate_, routing_->expert_offsets, home_gate_);
  return {home_gate_.rows(0, routing_->num_slots), {}};
}

template class GatherDispatcher<float>;
template class GatherDispatcher<double>;
template class GatherDispatcher<device::bf16>;

}  // namespace cadre::moe
