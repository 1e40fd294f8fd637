// Sums of gradients and values on their way between the ranks that share them.
#include <algorithm>
#include <chrono>
#include <exception>

#include "parallel/comm/shards.h"

namespace cadre::comm {
namespace {

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
    here_[g].assign(device::Turns::kPlaces, -1);
    for (int b = 0; b < plans_[g]->num_buckets(); ++b) {
      std::vector<int64_t> cuts = plans_[g]->cuts(b);
      const int64_t begin = cuts.front();
      for (int64_t& cut : cuts) cut -= begin;
      cuts_[g].push_back(std::move(cuts));
    }
    if (communicators_[g]->size() == 1) continue;
    const auto share = [this, g](auto flat) {
      communicators_[g]->share(reinterpret_cast<std::byte*>(flat.data()),
                               size_t(flat.size()) * sizeof(*flat.data()));
    };
    const device::Group group = device::Group(g);
    share(sharded_values(group) ? store.turn_values(group) : store.values(group));
    share(store.grads(group));
    if (!sharded_grads(group)) share(store.grad_sums(group));
  }
}

template <class T>
GradReducer<T>::~GradReducer() {
  if (std::uncaught_exceptions() > 0) return;
  try {
    finish_values();
    for (Communicator* communicator : communicators_) communicator->end_sharing();
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

// A bucket's turn: from the gradients that stand there to the slice of their sums, which the first micro-batch may write
// at once.
template <class T>
void GradReducer<T>::reduce_slice(device::Group group, int bucket, bool first) {
  const device::View<T, 1> grads = store_.bucket_grads(group, bucket);
  if (grads.empty()) return;
  Communicator& comm = *communicators_[int(group)];
  Pending pending{bucket, {}, group, first ? Collect::kWrite : Collect::kAdd};
  if (comm.size() > 1) {
    const std::vector<int64_t>& cuts = cuts_[int(group)][size_t(bucket)];
    const device::View<T, 1> slice = store_.own_grads(group, store_.sharding(group).owned[size_t(bucket)]);
    const bool direct = first && !slice.empty();
    if (direct) pending.collect = Collect::kNothing;
    T* const to = direct ? slice.data() : grads.data() + cuts[size_t(comm.rank())];
    pending.request = comm.reduce_scatter<T>(grads.data(), cuts, to, "gradients");
  }
  pending_.push_back(std::move(pending));
}

template <class T>
void GradReducer<T>::settle(Pending& pending, device::Queue& queue) {
  pending.request.then(queue);
  if (pending.collect != Collect::kNothing)
    store_.collect_slice(queue, pending.group, pending.bucket, pending.collect == Collect::kWrite);
  pending.collect = Collect::kNothing;
}

template <class T>
void GradReducer<T>::start_backward(int bucket, device::Queue& queue) {
  const int buckets = plans_[0]->num_buckets();
  if (sharded_grads(device::Group::kDense) || sharded_grads(device::Group::kExpert)) {
    const Stopwatch waited(waited_ms_);
    const int place = device::Turns::place(bucket, buckets);
    const auto before = [&](const Pending& pending) {
      return device::Turns::place(pending.bucket, buckets) == place && sharded_grads(pending.group);
    };
    for (Pending& pending : pending_) {
      if (before(pending)) settle(pending, queue);
    }
    std::erase_if(pending_, before);
    first_pending_ = 0;
    store_.start_bucket_grads(queue, bucket);
  }
  gather_ahead(bucket, -1);
  need_arrived(bucket, queue);
}

template <class T>
void GradReducer<T>::add(int bucket, MicroBatch micro) {
  for (const device::Group group : {device::Group::kDense, device::Group::kExpert}) {
    if (sharded_grads(group)) {
      reduce_slice(group, bucket, micro.first);
      continue;
    }
    if (!micro.last) continue;
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
    if (pending.bucket == bucket) settle(pending, queue);
  }
}

template <class T>
void GradReducer<T>::finish(device::Queue& queue) {
  if (pending_.empty()) return;
  const Stopwatch waited(waited_ms_);
  for (Pending& pending : pending_) settle(pending, queue);
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
  const int buckets = plans_[0]->num_buckets();
  for (const device::Group group : {device::Group::kDense, device::Group::kExpert}) {
    if (plans_[int(group)]->zero() == 0) continue;
    if (!sharded_values(group)) {
      requests.push_back(gather(store_.values(group), group, bucket, "parameters"));
      continue;
    }
    int& here = here_[int(group)][size_t(device::Turns::place(bucket, buckets))];
    if (here == bucket) here = -1;
    if (bucket <= device::Turns::kInTurn || bucket + 1 == buckets) fetch(group, bucket);
  }
}

// Of sharded values: those of a bucket, if they are not here, into its place.
template <class T>
void GradReducer<T>::fetch(device::Group group, int bucket) {
  const device::View<T, 1> values = store_.bucket_values(group, bucket);
  int& here = here_[int(group)][size_t(device::Turns::place(bucket, plans_[0]->num_buckets()))];
  if (here == bucket || values.empty()) return;
  if (here >= 0) {
    for (Request& request : arriving_[size_t(here)]) request.wait();  // of a pass that was given up
    arriving_[size_t(here)].clear();
  }
  here = bucket;
  const device::View<T, 1> own = store_.own_values(group, store_.sharding(group).owned[size_t(bucket)]);
  arriving_[size_t(bucket)].push_back(gather(own.data(), values.data(), group, bucket, "parameters"));
}

// Also of the next two buckets, whose places nobody needs any more: the half of a layer that stood there was computed
// with before the half between.
template <class T>
void GradReducer<T>::gather_ahead(int bucket, int step) {
  constexpr int kAhead = 2;
  const int buckets = plans_[0]->num_buckets();
  for (int ahead = 0; ahead <= kAhead; ++ahead) {
    const int b = bucket + ahead * step;
    // Backward the embedding's values are read by a tied head alone, and are still here.
    if (b < 0 || b >= buckets || (ahead > 0 && b == 0)) break;
    for (const device::Group group : {device::Group::kDense, device::Group::kExpert}) {
      if (sharded_values(group)) fetch(group, b);
    }
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
  gather_ahead(bucket, 1);
  need_arrived(bucket, queue);
}

template <class T>
void GradReducer<T>::need_arrived(int bucket, device::Queue& queue) {
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
  for (std::vector<int>& here : here_) std::fill(here.begin(), here.end(), -1);
}

template <class T>
template <class U>
Request GradReducer<T>::gather(device::View<U, 1> flat, device::Group group, int bucket, const char* label) {
  const std::vector<int64_t>& cuts = plans_[int(group)]->cuts(bucket);
  return gather(flat.data() + cuts[size_t(communicators_[int(group)]->rank())], flat.data() + cuts.front(),
                group, bucket, label);
}

template <class T>
template <class U>
Request GradReducer<T>::gather(const U* from, U* to, device::Group group, int bucket, const char* label) {
  Communicator& comm = *communicators_[int(group)];
  const std::vector<int64_t>& cuts = cuts_[int(group)][size_t(bucket)];
  if (comm.size() == 1 || cuts.back() == 0) return {};
  std::vector<int64_t> counts(comm.size());
  for (int r = 0; r < comm.size(); ++r) counts[r] = cuts[r + 1] - cuts[r];
  return comm.all_gather(from, counts[comm.rank()], to, counts, std::span(cuts).first(comm.size()),
                         dtype_of<U>(), label);
}

template class GradReducer<float>;
template class GradReducer<double>;
template class GradReducer<device::bf16>;

}  // namespace cadre::comm
