// ZeRO-1 (Rajbhandari et al. 2020): gradients are reduced and optimizer states kept in slices, one slice a
// rank. Every bucket of a group is cut into one contiguous slice a rank, so that all ranks take part in the
// reduction of each bucket. Cuts never go through a matrix of an Update::kMatrix row.
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

 private:
  const device::ParamLayout* layout_;
  device::Group group_;
  int ranks_, zero_;
  std::vector<std::vector<int64_t>> cuts_;
};

// Sums gradients over the ranks that share a parameter while the backward pass goes on: dense rows over all
// data ranks, expert rows over the replicas. SUM, never mean: losses were already divided by global counts.
class Reducer {
 public:
  virtual ~Reducer() = default;
  // The bucket's gradients are final on this rank. Buckets are added in the same order on all ranks.
  virtual void add(int bucket) = 0;
  virtual void progress() = 0;  // lets the transport move data; cheap
  // On `queue`, from now on, this rank's slices of a bucket's gradients hold the sums (its other slices are unspecified;
  // with zero = 0 all hold them). finish() says so of all buckets, and comes before the next add().
  virtual void need_sums(int bucket, device::Queue& queue) = 0;
  virtual void finish(device::Queue& queue) = 0;
  // When the optimizer has updated a bucket: every rank's slice of its values goes to all ranks, while other buckets
  // are updated and the next forward pass begins.
  virtual void gather_values(int bucket) = 0;
  // Before the values of a bucket are read: on `queue` they are what was gathered.
  virtual void need_values(int bucket, device::Queue& queue) = 0;
  virtual void finish_values() = 0;  // waits for all of them
  // What the host waited for sums and values since the last call.
  virtual double take_waited_ms() = 0;
};

template <class T>
class GradReducer final : public Reducer {
 public:
  GradReducer(Mesh& mesh, device::ParamStore<T>& store, const ShardPlan& dense, const ShardPlan& expert);
  ~GradReducer() override;  // values that are on their way still have a place to go to
  void add(int bucket) override;
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
  template <class U>
  void reduce(device::View<U, 1> grads, device::Group group, int bucket);
  template <class U>
  Request gather(device::View<U, 1> flat, device::Group group, int bucket, const char* label);
  device::ParamStore<T>&
      store_;  // borrowed, as the plans and the mesh's communicators; all outlive the reducer
  const ShardPlan* plans_[device::kNumGroups];
  Communicator* communicators_[device::kNumGroups];
  struct Pending {
    int bucket;
    Request request;
  };
  std::vector<Pending> pending_;
  size_t first_pending_ = 0;                    // requests before this one are known to be done
  std::vector<std::vector<Request>> arriving_;  // values by bucket
  double waited_ms_ = 0;
};
extern template class GradReducer<float>;
extern template class GradReducer<double>;
extern template class GradReducer<device::bf16>;

}  // namespace cadre::comm
