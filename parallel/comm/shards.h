// ZeRO (Rajbhandari et al. 2020): gradients are reduced and optimizer states kept in slices, one slice a rank (stage 1);
// so are the gradients (2) and the parameters (3). Every bucket of a group is cut into one contiguous slice a rank, so
// that all ranks take part in the reduction of each bucket. Cuts never go through a matrix of an Update::kMatrix row.
#pragma once

#include <utility>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/mesh.h"
#include "parallel/device/bf16.h"
#include "parallel/device/param_table.h"

namespace cadre::comm {

// Part of one row that a rank owns: elements [row_begin, row_begin + count) of the rank's local part of the
// row, which stand at group_offset in the group's flat buffer and at state_offset in the rank's optimizer
// state.
struct Piece {
  int row = 0;
  int64_t row_begin = 0;
  int64_t count = 0;
  int64_t group_offset = 0;
  int64_t state_offset = 0;
  device::OwnedRange range() const { return {group_offset, state_offset, count}; }
};

class ShardPlan {
 public:
  // zero = 0: every rank owns everything (states replicated).
  ShardPlan(const device::ParamLayout& layout, device::Group group, int ranks, int zero);
  // cuts[r]: start of rank r's slice of the bucket in the group's flat buffer; (ranks + 1) entries. With zero
  // = 0 the slices only share out the work of reducing.
  const std::vector<int64_t>& cuts(int bucket) const { return cuts_[bucket]; }
  std::vector<Piece> pieces(int rank) const;  // in rising group_offset and state_offset
  int64_t state_size(int rank) const;
  int ranks() const { return ranks_; }
  int zero() const { return zero_; }
  int num_buckets() const { return int(cuts_.size()); }
  // The rank's slice of each bucket.
  std::vector<device::OwnedRange> owned(int rank) const;

 private:
  const device::ParamLayout* layout_;
  device::Group group_;
  int ranks_, zero_;
  std::vector<std::vector<int64_t>> cuts_;
};

// What a rank's store keeps in part. Masters are sharded as optimizer states are, values with zero = 3 where other ranks
// hold the group too. With zero >= 2 gradients are, where other ranks hold them; and with several micro-batches all,
// since those that are reduced one by one start from nothing each time, and a store has one way of adding them up.
device::StoreParts shard_store(device::StoreParts parts, const Mesh& mesh, const ShardPlan& dense,
                               const ShardPlan& expert);

// Which of a step's micro-batches gradients belong to.
struct MicroBatch {
  bool first = true, last = true;
};

// Sums gradients over the ranks that share a parameter while the backward pass goes on: dense rows over all
// data ranks, expert rows over the replicas. SUM, never mean: losses were already divided by global counts.
class Reducer {
 public:
  virtual ~Reducer() = default;
  // The backward pass has come to a bucket: on `queue` its gradients may be written, and its values are whole.
  virtual void start_backward(int bucket, device::Queue& queue) = 0;
  // The bucket's gradients of a micro-batch are complete on this rank, and with the last one final. Sharded ones are
  // reduced then and there, others once a step. Buckets are added in the same order on all ranks.
  virtual void add(int bucket, MicroBatch micro = {}) = 0;
  virtual void progress() = 0;  // lets the transport move data; cheap
  // On `queue`, from now on, this rank's slices of a bucket's gradients hold the sums (its other slices are unspecified;
  // with zero = 0 all hold them). finish() says so of all buckets, and comes before the next add().
  virtual void need_sums(int bucket, device::Queue& queue) = 0;
  virtual void finish(device::Queue& queue) = 0;
  // When the optimizer has updated a bucket: every rank's slice of its values goes to all ranks, while other buckets
  // are updated and the next forward pass begins. Of sharded values so many as there is room for.
  virtual void gather_values(int bucket) = 0;
  // Before a forward pass reads the values of a bucket: on `queue` they are what was gathered. Sharded values of the
  // next buckets leave then: collective, in the order of the forward pass.
  virtual void need_values(int bucket, device::Queue& queue) = 0;
  // Waits for all of them. Sharded values are gathered anew when they are needed next: others may set them.
  virtual void finish_values() = 0;
  // What the host waited for sums and values since the last call.
  virtual double take_waited_ms() = 0;
};

template <class T>
class GradReducer final : public Reducer {
 public:
  GradReducer(Mesh& mesh, device::ParamStore<T>& store, const ShardPlan& dense, const ShardPlan& expert);
  ~GradReducer() override;  // values that are on their way still have a place to go to
  void start_backward(int bucket, device::Queue& queue) override;
  void add(int bucket, MicroBatch micro = {}) override;
  void progress() override;
  void need_sums(int bucket, device::Queue& queue) override;
  void finish(device::Queue& queue) override;
  void gather_values(int bucket) override;
  // The same for any buffer in the layout of a group's values, of which each rank has its own slices.
  void all_gather(device::Group group, device::View<T, 1> flat, const char* label);
  void need_values(int bucket, device::Queue& queue) override;
  void finish_values() override;
  double take_waited_ms() override { return std::exchange(waited_ms_, 0); }

 private:
  // How a sum gets from a bucket's turn in memory to this rank's slice.
  enum class Collect { kNothing, kWrite, kAdd };
  struct Pending {
    int bucket;
    Request request;
    device::Group group = device::Group::kDense;
    Collect collect = Collect::kNothing;
  };
  bool sharded_grads(device::Group group) const { return store_.sharding(group).grads; }
  bool sharded_values(device::Group group) const { return store_.sharding(group).values; }
  template <class U>
  void reduce(device::View<U, 1> grads, device::Group group, int bucket);
  void reduce_slice(device::Group group, int bucket, bool first);
  void settle(Pending& pending, device::Queue& queue);
  template <class U>
  Request gather(device::View<U, 1> flat, device::Group group, int bucket, const char* label);
  // from: the own slice; to: where the bucket begins.
  template <class U>
  Request gather(const U* from, U* to, device::Group group, int bucket, const char* label);
  void gather_ahead(int bucket, int step);
  void need_arrived(int bucket, device::Queue& queue);
  void fetch(device::Group group, int bucket);
  device::ParamStore<T>&
      store_;  // borrowed, as the plans and the mesh's communicators; all outlive the reducer
  const ShardPlan* plans_[device::kNumGroups];
  Communicator* communicators_[device::kNumGroups];
  std::vector<std::vector<int64_t>> cuts_[device::kNumGroups];  // by bucket, from its beginning on
  std::vector<Pending> pending_;
  size_t first_pending_ = 0;  // requests before this one are known to be done
  // Of sharded values: the bucket that stands or arrives in each place, -1 for none.
  std::vector<int> here_[device::kNumGroups];
  std::vector<std::vector<Request>> arriving_;  // values by bucket
  double waited_ms_ = 0;
};
extern template class GradReducer<float>;
extern template class GradReducer<double>;
extern template class GradReducer<device::bf16>;

}  // namespace cadre::comm
