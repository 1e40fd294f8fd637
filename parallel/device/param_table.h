// The one list of a model's parameters: every module declares its rows, and initialisation, sharding, optimizers,
// checkpoints and interop read them. Names and shapes are global: the expert index is an axis of the tensor, so the
// expert-parallel degree is only a view. ParamStore holds a rank's part in flat buffers, one for each Group.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/device/bf16.h"
#include "parallel/device/element_order.h"
#include "parallel/device/memory.h"
#include "parallel/device/sharding.h"
#include "parallel/device/view.h"

namespace cadre::device {

// kDense parameters are the same on every data rank; kExpert ones are split over the expert axis of the mesh, by experts or, where
// ParamRow::split_axis says so, by the width of each.
enum class Group : int { kDense = 0, kExpert = 1 };
inline constexpr int kNumGroups = 2;

struct Init {
  enum Kind { kZeros, kOnes, kNormal } kind = kNormal;
  double std = 0.02;  // of kNormal
};

// element: any slice can be updated alone. matrix: Muon needs whole matrices (the last two axes), so that shards never
// cut one; for an expert tensor there is one matrix per expert.
enum class Update { kElement, kMatrix };

struct ParamRow {
  std::string name;            // "layers.3.moe.w_gate"
  std::vector<int64_t> shape;  // global; (E, ...) in Group::kExpert
  Group group = Group::kDense;
  Init init;
  int split_axis = 0;  // in Group::kExpert: each rank of the expert axis has its part of this one
  bool decay = true;   // weight decay applies
  Update update = Update::kElement;
  bool product = false;  // its gradient is that of a linear layer, which writes all of it (see start_grads)
  int bucket =
      0;  // gradients of a bucket are complete together (Decoder: 0 embedding, 1 + 2 l and 2 + 2 l halves of layer l, then head)

  int64_t numel() const;
  int64_t matrix_numel() const;  // of one matrix for kMatrix, 1 for kElement
  bool writes_gradient() const { return product || update == Update::kMatrix; }
};

class ParamTable {
 public:
  // Returns the row's id. Rows of one bucket must be declared together, buckets in rising order. Names are unique.
  int add(ParamRow row);
  const std::vector<ParamRow>& rows() const { return rows_; }
  const ParamRow& row(int id) const { return rows_[id]; }
  int find(std::string_view name) const;  // -1 when absent
  int num_buckets() const { return rows_.empty() ? 0 : rows_.back().bucket + 1; }
  int64_t numel() const;  // global, all groups

 private:
  std::vector<ParamRow> rows_;
};

// Where a row lies on one rank: elements [global_begin, global_begin + count) of the global tensor, flattened in
// ParamLayout::order, stand at `offset` of the group's flat buffer.
struct Placement {
  Group group;
  int64_t offset = 0;
  int64_t global_begin = 0;
  int64_t count = 0;
};

// [begin, end) of a group's flat buffer.
struct FlatRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

// The layout of a rank's flat buffers for a given expert degree, which must divide the axis that is split (else
// Error(kUsage)).
class ParamLayout {
 public:
  ParamLayout(const ParamTable& table, int ep_size, int ep_rank);
  const ParamTable& table() const { return *table_; }
  const Placement& at(int row) const { return placements_[row]; }
  ElementOrder order(int row) const;  // of the row's elements over the ranks
  int64_t group_size(Group group) const { return sizes_[int(group)]; }
  FlatRange bucket(Group group, int bucket) const { return buckets_[int(group)][bucket]; }

 private:
  const ParamTable* table_;  // borrowed; outlives the layout
  int ep_size_;
  std::vector<Placement> placements_;
  int64_t sizes_[kNumGroups] = {0, 0};
  std::vector<FlatRange> buckets_[kNumGroups];
};

// A store as those see it who work in wide_t, whatever the device stores: the step, checkpoints, influence scores.
template <class W>
class FlatParams {
 public:
  virtual ~FlatParams() = default;
  // Values in W of elements that this rank updates: the store's own, or the masters of a narrower type. Not for stores
  // that keep no masters.
  View<W, 1> own_masters(Group group, const OwnedRange& range) const {
    return part(masters_[int(group)], range, masters_sharded_[int(group)]);
  }
  // Values and gradients, for code that knows only whole ones of type W. Throws Error(kUsage) for other stores.
  View<W, 1> values(Group group) const { return require_whole(group), masters_[int(group)]; }
  View<W, 1> grads(Group group) const { return require_whole(group), wide_grads_[int(group)]; }
  const Sharding& sharding(Group group) const { return shardings_[int(group)]; }
  // Values of a store in bf16; empty for others, and where they are sharded.
  virtual View<bf16, 1> narrow_values(Group group) const = 0;
  virtual size_t bytes() const = 0;  // of all that it holds

  // Values (and masters) of a range of a group's flat buffer, from and to the host. Of sharded ones set() takes what
  // this rank owns. get() returns when they are there: masters where the rank has them, else values; it throws
  // Error(kUsage) where it has neither.
  virtual void set(Queue& queue, Group group, int64_t offset, std::span<const W> from) = 0;
  virtual void get(Queue& queue, Group group, int64_t offset, std::span<W> to) const = 0;
  // Fills values from each row's Init. Element i of a tensor is a function of (seed, name, i) alone, so every layout
  // and every number of threads of `host` starts from the same model.
  virtual void initialize(uint64_t seed, Queue& queue, CpuQueue& host) = 0;

  // Before each micro-batch of a step. Gradients of linear layers, nearly all of the memory, are written and not added
  // to by the first one, the others become 0: modules ask ParamStore::adds().
  virtual void start_grads(Queue& queue, bool first = true) = 0;
  // After it, when a bucket's gradients are complete: adds them to the sums, where a store keeps those. Sharded ones
  // must be reduced first (comm::Reducer).
  virtual void collect_grads(Queue& queue, int bucket, bool first) = 0;

 protected:
  void require_whole(Group group) const;
  template <class U>
  static View<U, 1> part(const View<U, 1>& flat, const OwnedRange& range, bool sharded) {
    return flat.rows(sharded ? range.state_offset : range.group_offset, range.count);
  }
  View<W, 1> masters_[kNumGroups], wide_grads_[kNumGroups];
  Sharding shardings_[kNumGroups];
  bool masters_sharded_[kNumGroups] = {false, false};
  bool wide_ = true;
};

// What a store holds beside the values.
struct StoreParts {
  bool grads = true;     // and, where T is not wide_t, masters
  bool sums = false;     // gradients of several micro-batches, summed in wide_t; nothing where T is wide_t
  bool planned = false;  // only bytes(): nothing is allocated
  Sharding shardings[kNumGroups] = {};  // by group; whole unless given
};

// Values and gradients, flat. T is the storage type of the device. Where T is narrower than wide_t (bf16), a store
// that trains also holds the values in wide_t, the masters: optimizers update them and round them to the values, and
// checkpoints hold them, so that runs on different devices read each other's.
template <class T>
class ParamStore final : public FlatParams<wide_t<T>> {
 public:
  using W = wide_t<T>;
  static constexpr bool kWide = std::is_same_v<T, W>;

  ParamStore(const ParamLayout& layout, DeviceKind device, StoreParts parts = {});
  ParamStore(const ParamLayout& layout, DeviceKind device, bool with_grads)
      : ParamStore(layout, device, StoreParts{.grads = with_grads}) {}
  const ParamLayout& layout() const { return *layout_; }

  // The rank's part of a row as (local shape): the split axis of expert rows is divided by ep.
  template <int N>
  View<T, N> value(int row) const {
    return local<N>(row, bucket_values(layout_->at(row).group, layout_->table().row(row).bucket));
  }
  template <int N>
  View<T, N> grad(int row) const {
    return local<N>(row, bucket_grads(layout_->at(row).group, layout_->table().row(row).bucket));
  }
  View<T, 1> values(Group group) const { return values_[int(group)]; }  // empty where they are sharded
  // Of sharded values the memory in which buckets take turns; empty where they are whole.
  View<T, 1> turn_values(Group group) const { return turn_values_[int(group)]; }
  // Of sharded gradients the memory in which buckets take turns: what says that there are gradients at all.
  View<T, 1> grads(Group group) const { return grads_[int(group)]; }
  View<W, 1> grad_sums(Group group) const { return sums_[int(group)]; }  // whole; empty unless asked for
  // All of a bucket on this rank: from sharded memory while it is the bucket's turn.
  View<T, 1> bucket_values(Group group, int bucket) const {
    return turn(values_, turn_values_, this->shardings_[int(group)].values, group, bucket);
  }
  View<T, 1> bucket_grads(Group group, int bucket) const {
    return turn(grads_, grads_, this->shardings_[int(group)].grads, group, bucket);
  }
  // What this rank updates, whole or sharded. Of the two kinds of gradients sums go before, where they are not empty.
  View<T, 1> own_values(Group group, const OwnedRange& range) const {
    const bool sharded = this->shardings_[int(group)].values;
    return this->part(sharded ? value_slices_[int(group)] : values_[int(group)], range, sharded);
  }
  View<T, 1> own_grads(Group group, const OwnedRange& range) const {
    const bool sharded = this->shardings_[int(group)].grads;
    if (sharded && grad_slices_[int(group)].empty()) return {};
    return this->part(sharded ? grad_slices_[int(group)] : grads_[int(group)], range, sharded);
  }
  View<W, 1> own_grad_sums(Group group, const OwnedRange& range) const {
    if (sums_[int(group)].empty()) return {};
    return this->part(sums_[int(group)], range, this->shardings_[int(group)].grads);
  }
  View<double, 1> square_sum() const {  // (1) for the gradient norm
    return {reinterpret_cast<double*>(square_memory_.data()), {1}};
  }
  View<bf16, 1> narrow_values(Group group) const override {
    if constexpr (std::is_same_v<T, bf16>) return values(group);
    return (void)group, View<bf16, 1>();
  }
  size_t bytes() const override;

  void set(Queue& queue, Group group, int64_t offset, std::span<const W> from) override;
  void get(Queue& queue, Group group, int64_t offset, std::span<W> to) const override;
  void initialize(uint64_t seed, Queue& queue, CpuQueue& host) override;
  void initialize(uint64_t seed);  // on the CPU, with one thread
  void zero_grads();               // on the CPU: all gradients are 0, and what comes is added

  void start_grads(Queue& queue, bool first = true) override;
  void collect_grads(Queue& queue, int bucket, bool first) override;
  // Of sharded gradients: before the backward pass of a micro-batch comes to the bucket, whose turn it is from then on;
  // and when the own part of the bucket's turn holds the sums of all ranks, to move it to the slices.
  void start_bucket_grads(Queue& queue, int bucket);
  void collect_slice(Queue& queue, Group group, int bucket, bool first);
  // False until the first backward pass since start_grads is over, which the model says.
  const bool& adds() const { return adds_; }
  void end_backward() { adds_ = true; }

 private:
  template <int N>
  View<T, N> local(int row, View<T, 1> bucket) const;
  View<T, 1> turn(const View<T, 1> (&whole)[kNumGroups], const View<T, 1> (&turns)[kNumGroups], bool sharded,
                  Group group, int bucket) const {
    const FlatRange range = layout_->bucket(group, bucket);
    const int g = int(group);
    return sharded ? turns[g].rows(turns_[g].begin(bucket), range.size())
                   : whole[g].rows(range.begin, range.size());
  }
  void make_values(int group, bool planned);
  void make_grads(int group, bool planned);
  void zero_unwritten(Queue& queue, int row);
  const ParamLayout* layout_;
  DeviceKind device_;
  Turns turns_[kNumGroups];
  bool several_ = false;  // micro-batches, whose gradients are summed
  Buffer value_memory_[kNumGroups], grad_memory_[kNumGroups], master_memory_[kNumGroups],
      sum_memory_[kNumGroups], turn_value_memory_[kNumGroups], turn_grad_memory_[kNumGroups];
  Buffer square_memory_;
  View<T, 1> values_[kNumGroups], grads_[kNumGroups];  // grads_: whole, or turns
  View<T, 1> turn_values_[kNumGroups], value_slices_[kNumGroups], grad_slices_[kNumGroups];
  View<W, 1> sums_[kNumGroups];  // whole, or slices
  bool adds_ = true;
};

template <class T>
template <int N>
View<T, N> ParamStore<T>::local(int row, View<T, 1> bucket) const {
  const Placement& place = layout_->at(row);
  const ParamRow& r = layout_->table().row(row);
  assert(int(r.shape.size()) == N);
  std::array<int64_t, N> shape;
  for (int i = 0; i < N; ++i) shape[i] = r.shape[i];
  if (place.group == Group::kExpert) shape[r.split_axis] = shape[r.split_axis] * place.count / r.numel();
  return View<T, N>(bucket.data() + place.offset - layout_->bucket(place.group, r.bucket).begin, shape);
}

extern template class FlatParams<float>;
extern template class FlatParams<double>;
extern template class ParamStore<float>;
extern template class ParamStore<double>;
extern template class ParamStore<bf16>;

}  // namespace cadre::device
