#include "moe/exchange.h"

#include <algorithm>

namespace cadre::moe {

namespace {

std::vector<int64_t> times(std::vector<int64_t> counts, int64_t width) {
  for (int64_t& count : counts) count *= width;
  return counts;
}

}  // namespace

void Traffic::place() {
  for (size_t r = 1; r < send.size(); ++r) {
    send_begin[r] = send_begin[r - 1] + send[r - 1];
    receive_begin[r] = receive_begin[r - 1] + receive[r - 1];
  }
}

template <class T>
ExchangeDispatcher<T>::ExchangeDispatcher(device::Queue& queue, const MoeKernels<T>& kernels,
                                          comm::Communicator& group, const DispatchShape& shape)
    : queue_(queue),
      kernels_(kernels),
      group_(group),
      shape_(shape),
      ranks_(group.size()),
      local_experts_(shape.num_experts / group.size()),
      rows_(ranks_),
      slots_(ranks_),
      index_(ranks_),
      sent_counts_(ranks_ * (1 + local_experts_)),
      received_counts_(sent_counts_.size()) {}

template <class T>
int64_t ExchangeDispatcher<T>::max_slots() const {
  // A token has at most one slot for each expert of this rank.
  return ranks_ * std::min(shape_.max_slots, shape_.max_tokens * local_experts_);
}

template <class T>
void ExchangeDispatcher<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t rows = max_rows(), slots = max_slots(), r = shape_.hint_width;
  sent_token_ = saved.take<int32_t, 1>({rows});
  home_offsets_ = saved.take<int32_t, 1>({shape_.max_tokens + 1});
  home_rows_ = saved.take<int32_t, 1>({rows});
  received_ = saved.take<T, 2>({rows, shape_.dim});
  offsets_ = saved.take<int64_t, 1>({local_experts_ + 1});
  for (auto* view : {&slot_row_, &slot_token_, &slot_source_, &row_slots_})
    *view = saved.take<int32_t, 1>({slots});
  row_offsets_ = saved.take<int32_t, 1>({rows + 1});
  slot_gate_ = saved.take<W, 1>({slots});
  slot_hint_ = saved.take<T, 2>({slots, r});

  place_ = scratch.take<int32_t, 1>({shape_.max_tokens});
  sent_index_ = scratch.take<int32_t, 1>({rows + shape_.max_slots});
  received_index_ = scratch.take<int32_t, 1>({rows + slots});
  for (auto* view : {&outbox_, &inbox_, &sums_}) *view = scratch.take<T, 2>({rows, shape_.dim});
  wire_gate_ = scratch.take<W, 1>({slots});
  home_gate_ = scratch.take<W, 1>({shape_.max_slots});
  wire_hint_ = scratch.take<T, 2>({slots, r});
  home_hint_ = scratch.take<T, 2>({shape_.max_slots, r});
}

template <class T>
template <class U>
comm::Request ExchangeDispatcher<T>::out(const Traffic& traffic, int64_t width, const U* from, U* to,
                                         const char* label) {
  return group_.all_to_all(from, times(traffic.send, width), times(traffic.send_begin, width), to,
                           times(traffic.receive, width), times(traffic.receive_begin, width),
                           comm::dtype_of<U>(), label);
}

template <class T>
template <class U>
comm::Request ExchangeDispatcher<T>::home(const Traffic& traffic, int64_t width, const U* from, U* to,
                                          const char* label) {
  return group_.all_to_all(from, times(traffic.receive, width), times(traffic.receive_begin, width), to,
                           times(traffic.send, width), times(traffic.send_begin, width), comm::dtype_of<U>(),
                           label);
}

template <class T>
void ExchangeDispatcher<T>::wait() {
  for (comm::Request& request : requests_) request.wait();
  requests_.clear();
}

// Fills sent_token_ and sent_index_ and the sending half of rows_ and slots_.
template <class T>
void ExchangeDispatcher<T>::list_sent_rows(const Routing<T>& routing) {
  int64_t rows = 0, index = 0;
  for (int r = 0; r < ranks_; ++r) {
    const int64_t begin = routing.expert_offsets[r * local_experts_];
    const int64_t end = routing.expert_offsets[(r + 1) * local_experts_];
    constexpr int32_t kAbsent = -1, kWanted = 0;
    std::fill_n(place_.data(), num_tokens_, kAbsent);
    for (int64_t a = begin; a < end; ++a) place_[routing.slot_token[a]] = kWanted;
    int32_t count = 0;
    for (int64_t t = 0; t < num_tokens_; ++t) {
      if (place_[t] == kAbsent) continue;
      sent_token_[rows++] = sent_index_[index++] = int32_t(t);
      place_[t] = count++;
    }
    for (int64_t a = begin; a < end; ++a) sent_index_[index++] = place_[routing.slot_token[a]];
    rows_.send[r] = count;
    slots_.send[r] = end - begin;
    index_.send[r] = count + end - begin;
  }
}

template <class T>
void ExchangeDispatcher<T>::exchange_counts(const Routing<T>& routing) {
  const int64_t width = 1 + local_experts_;
  for (int r = 0; r < ranks_; ++r) {
    sent_counts_[r * width] = rows_.send[r];
    for (int64_t e = 0; e < local_experts_; ++e) {
      const int64_t global = r * local_experts_ + e;
      sent_counts_[r * width + 1 + e] = routing.expert_offsets[global + 1] - routing.expert_offsets[global];
    }
  }
  Traffic even(ranks_);
  std::fill(even.send.begin(), even.send.end(), width);
  even.receive = even.send;
  even.place();
  out(even, 1, sent_counts_.data(), received_counts_.data(), "moe.dispatch.counts").wait();
  for (int s = 0; s < ranks_; ++s) {
    const int64_t* counts = &received_counts_[s * width];
    rows_.receive[s] = counts[0];
    slots_.receive[s] = 0;
    for (int64_t e = 0; e < local_experts_; ++e) slots_.receive[s] += counts[1 + e];
    index_.receive[s] = rows_.receive[s] + slots_.receive[s];
  }
  for (Traffic* traffic : {&rows_, &slots_, &index_}) traffic->place();
}

template <class T>
void ExchangeDispatcher<T>::send_tokens(device::View<const T, 2> x, const Routing<T>& routing) {
  num_tokens_ = routing.num_tokens;
  list_sent_rows(routing);
  exchange_counts(routing);
  const auto tokens = sent_token_.rows(0, rows_.sent());
  kernels_.gather_rows(queue_, x, tokens, outbox_.rows(0, rows_.sent()));
  kernels_.slots_by_row(queue_, tokens, home_offsets_.rows(0, num_tokens_ + 1), home_rows_);
  queue_.wait();
  requests_.push_back(out(index_, 1, sent_index_.data(), received_index_.data(), "moe.dispatch.index"));
  requests_.push_back(out(slots_, 1, routing.slot_gate.data(), wire_gate_.data(), "moe.dispatch.gates"));
  if (shape_.hint_width > 0)
    requests_.push_back(
        out(slots_, shape_.hint_width, routing.slot_hint.data(), wire_hint_.data(), "moe.dispatch.hints"));
  requests_.push_back(out(rows_, shape_.dim, outbox_.data(), received_.data(), "moe.dispatch.rows"));
}

// Slots came by sender, then expert; the experts want them by expert, then sender.
template <class T>
void ExchangeDispatcher<T>::group_slots() {
  std::vector<int64_t>& next = slot_cursor_;
  next = slots_.receive_begin;
  int64_t slot = 0;
  for (int64_t e = 0; e < local_experts_; ++e) {
    offsets_[e] = slot;
    for (int s = 0; s < ranks_; ++s) {
      const int32_t* tokens = received_index_.data() + index_.receive_begin[s];
      const int32_t* slot_rows = tokens + rows_.receive[s];
      for (int64_t n = received_counts_[s * (1 + local_experts_) + 1 + e]; n > 0; --n, ++slot, ++next[s]) {
        const int32_t row = slot_rows[next[s] - slots_.receive_begin[s]];
        slot_row_[slot] = int32_t(rows_.receive_begin[s] + row);
        slot_token_[slot] = int32_t(s * shape_.max_tokens + tokens[row]);
        slot_source_[slot] = int32_t(next[s]);
        slot_gate_[slot] = wire_gate_[next[s]];
      }
    }
  }
  offsets_[local_experts_] = slot;
}

template <class T>
const ExpertSlots<T>& ExchangeDispatcher<T>::receive_tokens() {
  wait();
  group_slots();
  const int64_t rows = rows_.received(), slots = slots_.received();
  kernels_.slots_by_row(queue_, slot_row_.rows(0, slots), row_offsets_.rows(0, rows + 1), row_slots_);
  work_.rows = received_.rows(0, rows);
  work_.offsets = offsets_;
  work_.slot_row = slot_row_.rows(0, slots);
  work_.slot_token = slot_token_.rows(0, slots);
  work_.slot_gate = slot_gate_.rows(0, slots);
  work_.row_offsets = row_offsets_.rows(0, rows + 1);
  work_.row_slots = row_slots_.rows(0, slots);
  if (shape_.hint_width > 0) {
    kernels_.gather_rows(queue_, wire_hint_, slot_source_.rows(0, slots), slot_hint_.rows(0, slots));
    work_.slot_hint = slot_hint_.rows(0, slots);
  }
  return work_;
}

template <class T>
void ExchangeDispatcher<T>::combine(device::View<const T, 2> slot_output, bool accumulate,
                                    device::View<T, 2> y) {
  kernels_.combine_rows(queue_, slot_output, work_.row_offsets, work_.row_slots, work_.slot_gate, false,
                        sums_.rows(0, rows_.received()));
  queue_.wait();
  home(rows_, shape_.dim, sums_.data(), inbox_.data(), "moe.combine.rows").wait();
  kernels_.combine_rows(queue_, inbox_, home_offsets_, home_rows_, {}, accumulate, y);
}

template <class T>
void ExchangeDispatcher<T>::send_grad(device::View<const T, 2> dy) {
  kernels_.gather_rows(queue_, dy, sent_token_.rows(0, rows_.sent()), outbox_.rows(0, rows_.sent()));
  queue_.wait();
  requests_.push_back(out(rows_, shape_.dim, outbox_.data(), inbox_.data(), "moe.dispatch_grad.rows"));
}

template <class T>
device::View<const T, 2> ExchangeDispatcher<T>::receive_grad() {
  wait();
  return inbox_.rows(0, rows_.received());
}

template <class T>
void ExchangeDispatcher<T>::send_home(device::View<const T, 2> slot_dx, const SlotGrads<T>& grads,
                                      bool accumulate, device::View<T, 2> dx) {
  const int64_t r = shape_.hint_width;
  adds_to_dx_ = accumulate;
  dx_ = dx;
  kernels_.combine_rows(queue_, slot_dx, work_.row_offsets, work_.row_slots, {}, false,
                        sums_.rows(0, rows_.received()));
  queue_.wait();
  for (int64_t a = 0; a < work_.num_slots(); ++a) {
    wire_gate_[slot_source_[a]] = grads.gate[a];
    if (r > 0) std::copy_n(grads.hint[a].data(), r, wire_hint_[slot_source_[a]].data());
  }
  requests_.push_back(home(rows_, shape_.dim, sums_.data(), outbox_.data(), "moe.combine_grad.rows"));
  requests_.push_back(home(slots_, 1, wire_gate_.data(), home_gate_.data(), "moe.combine_grad.gates"));
  if (r > 0)
    requests_.push_back(home(slots_, r, wire_hint_.data(), home_hint_.data(), "moe.combine_grad.hints"));
}

template <class T>
SlotGrads<T> ExchangeDispatcher<T>::receive_home() {
  const int64_t r = shape_.hint_width, sent = slots_.sent();
  wait();
  kernels_.combine_rows(queue_, outbox_, home_offsets_, home_rows_, {}, adds_to_dx_, dx_);
  SlotGrads<T> at_home{home_gate_.rows(0, sent), {}};
  if (r > 0) at_home.hint = home_hint_.rows(0, sent);
  return at_home;
}

template class ExchangeDispatcher<float>;
template class ExchangeDispatcher<double>;

}  // namespace cadre::moe
