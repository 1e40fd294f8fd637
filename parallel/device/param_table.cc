#include "parallel/device/param_table.h"

#include <algorithm>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"
#include "parallel/device/kernels.h"
#include "parallel/device/transfer.h"

namespace cadre::device {

int64_t ParamRow::numel() const {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

int64_t ParamRow::matrix_numel() const {
  if (update == Update::kElement) return 1;
  return shape[shape.size() - 1] * shape[shape.size() - 2];
}

int ParamTable::add(ParamRow row) {
  require(
      !row.shape.empty() && std::all_of(row.shape.begin(), row.shape.end(), [](int64_t s) { return s > 0; }),
      ExitCode::kUsage, "parameter {}: found shape ({}), expected positive sizes", row.name,
      fmt::join(row.shape, ", "));
  require(find(row.name) < 0, ExitCode::kUsage, "parameter {} is declared twice", row.name);
  require(row.update == Update::kElement || row.shape.size() >= 2, ExitCode::kUsage,
          "parameter {}: a matrix needs two axes, found shape ({})", row.name, fmt::join(row.shape, ", "));
  const int last = rows_.empty() ? 0 : rows_.back().bucket;
  require(row.bucket >= last, ExitCode::kUsage, "parameter {}: bucket {} is declared after bucket {}",
          row.name, row.bucket, last);
  rows_.push_back(std::move(row));
  return int(rows_.size()) - 1;
}

int ParamTable::find(std::string_view name) const {
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i].name == name) return int(i);
  }
  return -1;
}

int64_t ParamTable::numel() const {
  int64_t n = 0;
  for (const ParamRow& row : rows_) n += row.numel();
  return n;
}

ParamLayout::ParamLayout(const ParamTable& table, int ep_size, int ep_rank) : table_(&table) {
  for (auto& buckets : buckets_) buckets.resize(table.num_buckets());
  for (const ParamRow& row : table.rows()) {
    Placement place;
    place.group = row.group;
    place.count = row.numel();
    if (row.group == Group::kExpert) {
      require(row.shape[0] % ep_size == 0, ExitCode::kUsage,
              "{} has {} experts, which mesh.ep = {} does not divide; change moe.num_experts or mesh.ep",
              row.name, row.shape[0], ep_size);
      place.count /= ep_size;
      place.global_begin = ep_rank * place.count;
    }
    int64_t& size = sizes_[int(row.group)];
    place.offset = size;
    FlatRange& bucket = buckets_[int(row.group)][row.bucket];
    if (bucket.size() == 0) bucket.begin = size;
    size += place.count;
    bucket.end = size;
    placements_.push_back(place);
  }
}

namespace {
template <class U>
View<U, 1> allocate(Buffer& memory, DeviceKind device, int64_t n, bool planned) {
  const size_t bytes = size_t(n) * sizeof(U);
  memory = planned ? Buffer::planned(bytes) : Buffer(device, bytes);
  return View<U, 1>(reinterpret_cast<U*>(memory.data()), {n});
}

constexpr int64_t kChunk = int64_t(4) << 20;  // elements that go to or come from a device at a time
}  // namespace

template <class W>
void FlatParams<W>::require_wide() const {
  require(wide_, ExitCode::kUsage,
          "this needs parameters and gradients in fp32, found bf16; set device: cpu");
}

template <class T>
ParamStore<T>::ParamStore(const ParamLayout& layout, DeviceKind device, StoreParts parts)
    : layout_(&layout), device_(device) {
  square_memory_ = parts.planned ? Buffer::planned(sizeof(double)) : Buffer(device, sizeof(double));
  this->wide_ = kWide;
  for (int g = 0; g < kNumGroups; ++g) {
    const int64_t n = layout.group_size(Group(g));
    values_[g] = allocate<T>(value_memory_[g], device, n, parts.planned);
    if (parts.grads) grads_[g] = allocate<T>(grad_memory_[g], device, n, parts.planned);
    if constexpr (kWide) {
      this->masters_[g] = values_[g];
      this->wide_grads_[g] = grads_[g];
    } else if (parts.grads) {
      this->masters_[g] = allocate<W>(master_memory_[g], device, n, parts.planned);
      if (parts.sums) sums_[g] = allocate<W>(sum_memory_[g], device, n, parts.planned);
    }
  }
}

template <class T>
size_t ParamStore<T>::bytes() const {
  size_t sum = 0;
  for (const auto* memory : {value_memory_, grad_memory_, master_memory_, sum_memory_}) {
    for (int g = 0; g < kNumGroups; ++g) sum += memory[g].bytes();
  }
  return sum;
}

template <class T>
void ParamStore<T>::set(Queue& queue, Group group, int64_t offset, std::span<const W> from) {
  if constexpr (kWide) {
    upload(queue, from, values(group).rows(offset, int64_t(from.size())));
  } else {
    const std::vector<T> rounded(from.begin(), from.end());
    upload(queue, rounded, values(group).rows(offset, int64_t(from.size())));
    if (!this->masters(group).empty())
      upload(queue, from, this->masters(group).rows(offset, int64_t(from.size())));
  }
}

template <class T>
void ParamStore<T>::get(Queue& queue, Group group, int64_t offset, std::span<W> to) const {
  const int64_t count = int64_t(to.size());
  if (kWide || !this->masters(group).empty()) {
    download<W>(queue, this->masters(group).rows(offset, count), to);
    return queue.wait();
  }
  std::vector<T> narrow(to.size());
  download<T>(queue, values(group).rows(offset, count), narrow);
  queue.wait();
  std::copy(narrow.begin(), narrow.end(), to.begin());
}

template <class T>
void ParamStore<T>::initialize(uint64_t seed, Queue& queue, CpuQueue& host) {
  std::vector<W> chunk;
  for (size_t i = 0; i < layout_->table().rows().size(); ++i) {
    const ParamRow& row = layout_->table().row(int(i));
    const Placement& place = layout_->at(int(i));
    const base::Philox random(base::mix(seed, base::hash_name(row.name)));
    for (int64_t begin = 0; begin < place.count; begin += kChunk) {
      chunk.resize(size_t(std::min(kChunk, place.count - begin)));
      host.parallel_for(int64_t(chunk.size()), 4096, [&](int64_t first, int64_t last) {
        for (int64_t e = first; e < last; ++e) {
          chunk[size_t(e)] = row.init.kind == Init::kOnes ? W(1)
                             : row.init.kind == Init::kZeros
                                 ? W(0)
                                 : W(random.normal(uint64_t(place.global_begin + begin + e)) * row.init.std);
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
void ParamStore<T>::start_grads(Queue& queue, bool first) {
  if (!first && sums_[0].empty() && sums_[1].empty()) return;
  for (size_t i = 0; i < layout_->table().rows().size(); ++i) {
    const Placement& place = layout_->at(int(i));
    if (layout_->table().row(int(i)).writes_gradient()) continue;
    zero(queue, grads(place.group).rows(place.offset, place.count));
  }
  adds_ = false;
}

template <class T>
void ParamStore<T>::collect_grads(Queue& queue, int bucket, bool first) {
  for (int g = 0; g < kNumGroups; ++g) {
    if (sums_[g].empty()) continue;
    const FlatRange range = layout_->bucket(Group(g), bucket);
    const DeviceKernels<T>& kernels = device_kernels<T>(device_);
    (first ? kernels.widen : kernels.accumulate)(queue, grads_[g].rows(range.begin, range.size()),
                                                 sums_[g].rows(range.begin, range.size()));
  }
}

template class FlatParams<float>;
template class FlatParams<double>;
template class ParamStore<float>;
template class ParamStore<double>;
template class ParamStore<bf16>;

}  // namespace cadre::device
