#include "parallel/comm/shards.h"

#include <algorithm>
#include <chrono>
#include <exception>

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

// Adds the time until its end.
class Stopwatch {
 public:
  explicit Stopwatch(double& ms) : ms_(ms) {}
  ~Stopwatch() {
    ms_ += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  double& ms_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

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

template <class T>
GradReducer<T>::GradReducer(Mesh& mesh, device::ParamStore<T>& store, const ShardPlan& dense,
                            const ShardPlan& expert)
    : store_(store),
      plans_{&dense, &expert},
      communicators_{&mesh.data_tensors(), &mesh.replica_tensors()},
      arriving_(dense.num_buckets()) {
  for (int g = 0; g < device::kNumGroups; ++g) {
    require(plans_[g]->ranks() == communicators_[g]->size(), ExitCode::kUsage,
            "found a shard plan for {} ranks on communicator '{}' of {}", plans_[g]->ranks(),
            communicators_[g]->name(), communicators_[g]->size());
  }
}

template <class T>
GradReducer<T>::~GradReducer() {
  if (std::uncaught_exceptions() > 0) return;
  try {
    finish_values();
  } catch (const std::exception&) {
    // A rank was lost: whoever waits for it next says so.
  }
}

template <class T>
template <class U>
void GradReducer<T>::reduce(device::View<U, 1> grads, device::Group group, int bucket) {
  Communicator& comm = *communicators_[int(group)];
  const std::vector<int64_t>& cuts = plans_[int(group)]->cuts(bucket);
  if (comm.size() == 1 || cuts.front() == cuts.back()) return;
  U* data = grads.data();
  pending_.push_back({bucket, comm.reduce_scatter(data, cuts, data + cuts[comm.rank()], "gradients")});
}

template <class T>
void GradReducer<T>::add(int bucket) {
  for (const device::Group group : {device::Group::kDense, device::Group::kExpert}) {
    // Sums of several micro-batches are reduced in place of the last one's gradients.
    const auto sums = store_.grad_sums(group);
    sums.empty() ? reduce(store_.grads(group), group, bucket) : reduce(sums, group, bucket);
  }
}

// MPI moves the data of all collectives when any is tested, so the oldest is enough.
template <class T>
void GradReducer<T>::progress() {
  while (first_pending_ < pending_.size() && pending_[first_pending_].request.test()) ++first_pending_;
}

template <class T>
void GradReducer<T>::need_sums(int bucket, device::Queue& queue) {
  // Without slices the sums go to all ranks first, all at once.
  if (plans_[0]->zero() == 0) return finish(queue);
  const Stopwatch waited(waited_ms_);
  for (Pending& pending : pending_) {
    if (pending.bucket == bucket) pending.request.then(queue);
  }
}

template <class T>
void GradReducer<T>::finish(device::Queue& queue) {
  if (pending_.empty()) return;
  const Stopwatch waited(waited_ms_);
  for (Pending& pending : pending_) pending.request.then(queue);
  pending_.clear();
  first_pending_ = 0;
  std::vector<Request> requests;
  for (const device::Group group : {device::Group::kDense, device::Group::kExpert}) {
    // Replicated states: every rank updates everything, so it needs all sums.
    if (plans_[int(group)]->zero() != 0) continue;
    const auto sums = store_.grad_sums(group);
    for (int b = 0; b < plans_[int(group)]->num_buckets(); ++b)
      requests.push_back(sums.empty() ? gather(store_.grads(group), group, b, "gradients")
                                      : gather(sums, group, b, "gradients"));
  }
  for (Request& request : requests) request.then(queue);
}

template <class T>
void GradReducer<T>::gather_values(int bucket) {
  std::vector<Request>& requests = arriving_[size_t(bucket)];
  for (Request& request : requests) request.wait();  // of the step before, which nobody has read
  requests.clear();
  for (const device::Group group : {device::Group::kDense, device::Group::kExpert}) {
    if (plans_[int(group)]->zero() != 0)
      requests.push_back(gather(store_.values(group), group, bucket, "parameters"));
  }
}

template <class T>
void GradReducer<T>::all_gather(device::Group group, device::View<T, 1> flat, const char* label) {
  std::vector<Request> requests;
  for (int b = 0; b < plans_[int(group)]->num_buckets(); ++b)
    requests.push_back(gather(flat, group, b, label));
  for (Request& request : requests) request.wait();
}

template <class T>
void GradReducer<T>::need_values(int bucket, device::Queue& queue) {
  std::vector<Request>& requests = arriving_[size_t(bucket)];
  if (requests.empty()) return;
  const Stopwatch waited(waited_ms_);
  for (Request& request : requests) request.then(queue);
  requests.clear();
}

template <class T>
void GradReducer<T>::finish_values() {
  for (std::vector<Request>& requests : arriving_) {
    for (Request& request : requests) request.wait();
    requests.clear();
  }
}

template <class T>
template <class U>
Request GradReducer<T>::gather(device::View<U, 1> flat, device::Group group, int bucket, const char* label) {
  Communicator& comm = *communicators_[int(group)];
  const std::vector<int64_t>& cuts = plans_[int(group)]->cuts(bucket);
  if (comm.size() == 1 || cuts.front() == cuts.back()) return {};
  std::vector<int64_t> counts(comm.size());
  for (int r = 0; r < comm.size(); ++r) counts[r] = cuts[r + 1] - cuts[r];
  return comm.all_gather(flat.data() + cuts[comm.rank()], counts[comm.rank()], flat.data(), counts,
                         std::span(cuts).first(comm.size()), dtype_of<U>(), label);
}

template class GradReducer<float>;
template class GradReducer<double>;
template class GradReducer<device::bf16>;

}  // namespace cadre::comm
