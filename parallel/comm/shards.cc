#include "parallel/comm/shards.h"

#include <algorithm>

namespace cadre::comm {
namespace {

// The cut at or next to `ideal` (an offset in the group's flat buffer) that goes through no matrix. Rising
// ideals give rising cuts, because rounding to a multiple keeps order and stays inside the row.
int64_t allowed_cut(const device::ParamLayout& layout, device::Group group, int bucket, int64_t ideal) {
  const auto& rows = layout.table().rows();
  for (size_t i = 0; i < rows.size(); ++i) {
    const device::Placement& place = layout.at(int(i));
    if (rows[i].group != group || rows[i].bucket != bucket) continue;
    if (ideal < place.offset || ideal >= place.offset + place.count) continue;
    const int64_t unit = rows[i].matrix_numel();
    return place.offset + (ideal - place.offset + unit / 2) / unit * unit;
  }
  return ideal;
}

}  // namespace

ShardPlan::ShardPlan(const device::ParamLayout& layout, device::Group group, int ranks, int zero)
    : layout_(&layout), group_(group), ranks_(ranks), zero_(zero) {
  for (int b = 0; b < layout.table().num_buckets(); ++b) {
    const device::FlatRange range = layout.bucket(group, b);
    std::vector<int64_t> cuts(ranks + 1, range.end);
    for (int r = 0; r < ranks; ++r) {
      const int64_t even = range.size() / ranks * r + std::min<int64_t>(r, range.size() % ranks);
      cuts[r] = allowed_cut(layout, group, b, range.begin + even);
    }
    cuts_.push_back(std::move(cuts));
  }
}

std::vector<Piece> ShardPlan::pieces(int rank) const {
  std::vector<Piece> pieces;
  int64_t state_offset = 0;
  const auto& rows = layout_->table().rows();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].group != group_) continue;
    const device::Placement& place = layout_->at(int(i));
    const std::vector<int64_t>& cuts = cuts_[rows[i].bucket];
    int64_t begin = place.offset, end = place.offset + place.count;
    if (zero_ != 0) {
      begin = std::max(begin, cuts[rank]);
      end = std::min(end, cuts[rank + 1]);
    }
    if (begin >= end) continue;
    pieces.push_back({int(i), begin - place.offset, end - begin, begin, state_offset});
    state_offset += end - begin;
  }
  return pieces;
}

int64_t ShardPlan::state_size(int rank) const {
  int64_t size = 0;
  for (const Piece& piece : pieces(rank)) size += piece.count;
  return size;
}

namespace {
// The communicators move host memory, which has no bf16: such gradients stay on their one rank.
template <class T>
constexpr bool kCanSend = !std::is_same_v<T, device::bf16>;
}  // namespace

template <class T>
GradReducer<T>::GradReducer(Mesh& mesh, device::ParamStore<T>& store, const ShardPlan& dense,
                            const ShardPlan& expert)
    : store_(store), plans_{&dense, &expert}, communicators_{&mesh.data(), &mesh.replicas()} {
  for (int g = 0; g < device::kNumGroups; ++g) {
    require(plans_[g]->ranks() == communicators_[g]->size(), ExitCode::kUsage,
            "found a shard plan for {} ranks on communicator '{}' of {}", plans_[g]->ranks(),
            communicators_[g]->name(), communicators_[g]->size());
    require(kCanSend<T> || communicators_[g]->size() == 1, ExitCode::kUsage,
            "bf16 training runs on one rank yet, found {}", communicators_[g]->size());
  }
}

template <class T>
void GradReducer<T>::add(int bucket) {
  for (int g = 0; g < device::kNumGroups; ++g) {
    Communicator& comm = *communicators_[g];
    const std::vector<int64_t>& cuts = plans_[g]->cuts(bucket);
    if (comm.size() == 1 || cuts.front() == cuts.back()) continue;
    if constexpr (kCanSend<T>) {
      T* grads = store_.grads(device::Group(g)).data();
      pending_.push_back(comm.reduce_scatter(grads, cuts, grads + cuts[comm.rank()], "gradients"));
    }
  }
}

// MPI moves the data of all collectives when any is tested, so the oldest is enough.
template <class T>
void GradReducer<T>::progress() {
  while (first_pending_ < pending_.size() && pending_[first_pending_].test()) ++first_pending_;
}

template <class T>
void GradReducer<T>::finish() {
  for (Request& request : pending_) request.wait();
  pending_.clear();
  first_pending_ = 0;
  for (int g = 0; g < device::kNumGroups; ++g) {
    // Replicated states: every rank updates everything, so it needs all sums.
    if (plans_[g]->zero() == 0) all_gather(device::Group(g), store_.grads(device::Group(g)), "gradients");
  }
}

template <class T>
void GradReducer<T>::all_gather_values() {
  for (int g = 0; g < device::kNumGroups; ++g) {
    if (plans_[g]->zero() != 0) all_gather(device::Group(g), store_.values(device::Group(g)), "parameters");
  }
}

template <class T>
void GradReducer<T>::all_gather(device::Group group, device::View<T, 1> flat, const char* label) {
  const ShardPlan& plan = *plans_[int(group)];
  Communicator& comm = *communicators_[int(group)];
  if (comm.size() == 1) return;
  if constexpr (kCanSend<T>) {
    std::vector<Request> requests;
    std::vector<int64_t> counts(comm.size());
    for (int b = 0; b < plan.num_buckets(); ++b) {
      const std::vector<int64_t>& cuts = plan.cuts(b);
      if (cuts.front() == cuts.back()) continue;
      for (int r = 0; r < comm.size(); ++r) counts[r] = cuts[r + 1] - cuts[r];
      requests.push_back(comm.all_gather(flat.data() + cuts[comm.rank()], counts[comm.rank()], flat.data(),
                                         counts, std::span(cuts).first(comm.size()), dtype_of<T>(), label));
    }
    for (Request& request : requests) request.wait();
  }
}

template class GradReducer<float>;
template class GradReducer<double>;
template class GradReducer<device::bf16>;

}  // namespace cadre::comm
