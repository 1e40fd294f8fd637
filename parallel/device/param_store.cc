// The memory of parameters and gradients, whole or sharded.
#include <algorithm>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"
#include "parallel/device/kernels.h"
#include "parallel/device/param_table.h"
#include "parallel/device/peer.h"
#include "parallel/device/transfer.h"

namespace cadre::device {
namespace {
template <class U>
View<U, 1> allocate(Buffer& memory, DeviceKind device, int64_t n, bool planned) {
  size_t bytes = size_t(n) * sizeof(U);
  // Other ranks' GPUs may be shown the memory, whole pages of it (PeerPort).
  if (device == DeviceKind::kCuda) bytes = (bytes + kPeerPage - 1) / kPeerPage * kPeerPage;
  memory = planned ? Buffer::planned(bytes) : Buffer(device, bytes);
  return View<U, 1>(reinterpret_cast<U*>(memory.data()), {n});
}

constexpr int64_t kChunk = int64_t(4) << 20;  // elements that go to or come from a device at a time
}  // namespace

template <class W>
void FlatParams<W>::require_whole(Group group) const {
  require(wide_, ExitCode::kUsage,
          "this needs parameters and gradients in fp32, found bf16; set device: cpu");
  const Sharding& sharding = shardings_[int(group)];
  require(!sharding.grads && !sharding.values, ExitCode::kUsage,
          "this needs whole {} on every rank, found sharded ones; set mesh.zero: 1",
          sharding.values ? "parameters" : "gradients");
}

template <class T>
ParamStore<T>::ParamStore(const ParamLayout& layout, DeviceKind device, StoreParts parts)
    : layout_(&layout), device_(device), several_(parts.sums) {
  square_memory_ = parts.planned ? Buffer::planned(sizeof(double)) : Buffer(device, sizeof(double));
  this->wide_ = kWide;
  for (int g = 0; g < kNumGroups; ++g) {
    this->shardings_[g] = std::move(parts.shardings[g]);
    std::vector<int64_t> sizes;
    for (int b = 0; b < layout.table().num_buckets(); ++b) sizes.push_back(layout.bucket(Group(g), b).size());
    turns_[g] = Turns(sizes);
    make_values(g, parts.planned);
    if (parts.grads) make_grads(g, parts.planned);
  }
}

template <class T>
void ParamStore<T>::make_values(int g, bool planned) {
  const Sharding& sharding = this->shardings_[g];
  if (sharding.values) {
    value_slices_[g] = allocate<T>(value_memory_[g], device_, sharding.owned_size(), planned);
    turn_values_[g] = allocate<T>(turn_value_memory_[g], device_, turns_[g].size(), planned);
  } else {
    values_[g] = allocate<T>(value_memory_[g], device_, layout_->group_size(Group(g)), planned);
  }
  if constexpr (kWide) {
    this->masters_sharded_[g] = sharding.values;
    this->masters_[g] = sharding.values ? value_slices_[g] : values_[g];
  }
}

// And masters.
template <class T>
void ParamStore<T>::make_grads(int g, bool planned) {
  const Sharding& sharding = this->shardings_[g];
  const int64_t whole = layout_->group_size(Group(g)), own = sharding.owned_size();
  if (sharding.grads) {
    grads_[g] = allocate<T>(turn_grad_memory_[g], device_, turns_[g].size(), planned);
    if (kWide || !several_) grad_slices_[g] = allocate<T>(grad_memory_[g], device_, own, planned);
  } else {
    grads_[g] = allocate<T>(grad_memory_[g], device_, whole, planned);
  }
  if constexpr (kWide) {
    this->wide_grads_[g] = grads_[g];
  } else {
    this->masters_sharded_[g] = sharding.masters || sharding.values;
    this->masters_[g] =
        allocate<W>(master_memory_[g], device_, this->masters_sharded_[g] ? own : whole, planned);
    if (several_) sums_[g] = allocate<W>(sum_memory_[g], device_, sharding.grads ? own : whole, planned);
  }
}

template <class T>
size_t ParamStore<T>::bytes() const {
  size_t sum = 0;
  for (const auto* memory :
       {value_memory_, grad_memory_, master_memory_, sum_memory_, turn_value_memory_, turn_grad_memory_}) {
    for (int g = 0; g < kNumGroups; ++g) sum += memory[g].bytes();
  }
  return sum;
}

namespace {
// Calls body(range, where it begins in [offset, offset + count)) for the parts of it that are in `owned`.
template <class Body>
void for_owned(const std::vector<OwnedRange>& owned, int64_t offset, int64_t count, const Body& body) {
  for (const OwnedRange& range : owned) {
    const int64_t begin = std::max(range.group_offset, offset),
                  end = std::min(range.group_offset + range.count, offset + count);
    if (begin < end) body(range.part(begin - range.group_offset, end - begin), begin - offset);
  }
}
}  // namespace

template <class T>
void ParamStore<T>::set(Queue& queue, Group group, int64_t offset, std::span<const W> from) {
  const Sharding& sharding = this->shardings_[int(group)];
  const int64_t count = int64_t(from.size());
  const auto set_own = [&](auto values, const auto& view_of) {
    for_owned(sharding.owned, offset, count, [&](const OwnedRange& range, int64_t at) {
      upload(queue, values.subspan(size_t(at), size_t(range.count)), view_of(range));
    });
  };
  std::vector<T> rounded;
  std::span<const T> stored;
  if constexpr (kWide) {
    stored = from;
  } else {
    rounded = std::vector<T>(from.begin(), from.end());
    stored = rounded;
  }
  if (sharding.values) {
    set_own(stored, [&](const OwnedRange& r) { return own_values(group, r); });
  } else {
    upload(queue, stored, values(group).rows(offset, count));
  }
  const bool masters = !kWide && !this->masters_[int(group)].empty();
  if (masters && this->masters_sharded_[int(group)]) {
    set_own(from, [&](const OwnedRange& r) { return this->own_masters(group, r); });
  } else if (masters) {
    upload(queue, from, this->masters_[int(group)].rows(offset, count));
  }
}

template <class T>
void ParamStore<T>::get(Queue& queue, Group group, int64_t offset, std::span<W> to) const {
  const int64_t count = int64_t(to.size());
  const View<W, 1>& masters = this->masters_[int(group)];
  if (!masters.empty() && !this->masters_sharded_[int(group)]) {
    download<W>(queue, masters.rows(offset, count), to);
    return queue.wait();
  }
  if (!this->shardings_[int(group)].values) {
    std::vector<T> narrow(to.size());
    download<T>(queue, values(group).rows(offset, count), narrow);
    queue.wait();
    std::copy(narrow.begin(), narrow.end(), to.begin());
  }
  int64_t owned = 0;
  for_owned(this->shardings_[int(group)].owned, offset, count, [&](const OwnedRange& range, int64_t at) {
    if (masters.empty()) return;
    download<W>(queue, this->own_masters(group, range), to.subspan(size_t(at), size_t(range.count)));
    owned += range.count;
  });
  queue.wait();
  require(owned == count || !this->shardings_[int(group)].values, ExitCode::kUsage,
          "this needs whole parameters on every rank, found sharded ones; set mesh.zero: 1");
}

template <class T>
void ParamStore<T>::initialize(uint64_t seed, Queue& queue, CpuQueue& host) {
  std::vector<W> chunk;
  for (size_t i = 0; i < layout_->table().rows().size(); ++i) {
    const ParamRow& row = layout_->table().row(int(i));
    const Placement& place = layout_->at(int(i));
    const base::Philox random(base::mix(seed, base::hash_name(row.name)));
    const ElementOrder order = layout_->order(int(i));
    for (int64_t begin = 0; begin < place.count; begin += kChunk) {
      chunk.resize(size_t(std::min(kChunk, place.count - begin)));
      host.parallel_for(int64_t(chunk.size()), 4096, [&](int64_t first, int64_t last) {
        for (int64_t e = first; e < last; ++e) {
          chunk[size_t(e)] =
              row.init.kind == Init::kOnes ? W(1)
              : row.init.kind == Init::kZeros
                  ? W(0)
                  : W(random.normal(uint64_t(order.plain(place.global_begin + begin + e))) * row.init.std);
        }
      });
      set(queue, place.group, place.offset + begin, chunk);
    }
  }
}

template <class T>
void ParamStore<T>::initialize(uint64_t seed) {
  assert(device_ == DeviceKind::kCpu);
  CpuQueue queue(1);
  initialize(seed, queue, queue);
}

template <class T>
void ParamStore<T>::zero_grads() {
  assert(device_ == DeviceKind::kCpu);
  CpuQueue queue(1);
  for (const View<T, 1>& grads : grads_) zero(queue, grads);
  adds_ = true;
}

template <class T>
void ParamStore<T>::zero_unwritten(Queue& queue, int row) {
  if (layout_->table().row(row).writes_gradient()) return;
  const Placement& place = layout_->at(row);
  const FlatRange range = layout_->bucket(place.group, layout_->table().row(row).bucket);
  const View<T, 1> bucket = bucket_grads(place.group, layout_->table().row(row).bucket);
  zero(queue, bucket.rows(place.offset - range.begin, place.count));
}

template <class T>
void ParamStore<T>::start_grads(Queue& queue, bool first) {
  const bool sharded = this->shardings_[0].grads || this->shardings_[1].grads;
  require(first || several_ || !sharded, ExitCode::kUsage,
          "found a second micro-batch in a step whose gradients are sharded, with memory for one; raise "
          "train.micro_batch, or set mesh.zero: 1");
  if (!first && !sharded && sums_[0].empty() && sums_[1].empty()) return;
  for (int row = 0; row < int(layout_->table().rows().size()); ++row) {
    if (!this->shardings_[int(layout_->at(row).group)].grads) zero_unwritten(queue, row);
  }
  adds_ = false;
}

template <class T>
void ParamStore<T>::start_bucket_grads(Queue& queue, int bucket) {
  for (int row = 0; row < int(layout_->table().rows().size()); ++row) {
    if (layout_->table().row(row).bucket != bucket) continue;
    if (this->shardings_[int(layout_->at(row).group)].grads) zero_unwritten(queue, row);
  }
}

template <class T>
void ParamStore<T>::collect_grads(Queue& queue, int bucket, bool first) {
  for (int g = 0; g < kNumGroups; ++g) {
    if (sums_[g].empty() || this->shardings_[g].grads) continue;
    const FlatRange range = layout_->bucket(Group(g), bucket);
    const DeviceKernels<T>& kernels = device_kernels<T>(device_);
    (first ? kernels.widen : kernels.accumulate)(queue, grads_[g].rows(range.begin, range.size()),
                                                 sums_[g].rows(range.begin, range.size()));
  }
}

template <class T>
void ParamStore<T>::collect_slice(Queue& queue, Group group, int bucket, bool first) {
  const OwnedRange& own = this->shardings_[int(group)].owned[size_t(bucket)];
  if (own.count == 0) return;
  const int64_t begin = layout_->bucket(group, bucket).begin;
  const View<T, 1> from = bucket_grads(group, bucket).rows(own.group_offset - begin, own.count);
  const DeviceKernels<T>& kernels = device_kernels<T>(device_);
  if constexpr (kWide) {
    (first ? kernels.widen : kernels.accumulate)(queue, from, own_grads(group, own));
  } else if (several_) {
    (first ? kernels.widen : kernels.accumulate)(queue, from, own_grad_sums(group, own));
  } else {
    kernels.copy(queue, from, own_grads(group, own));
  }
}

template class FlatParams<float>;
template class FlatParams<double>;
template class ParamStore<float>;
template class ParamStore<double>;
template class ParamStore<bf16>;

}  // namespace cadre::device
