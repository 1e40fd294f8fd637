#include "parallel/device/param_table.h"

#include <algorithm>

#include "parallel/base/errors.h"
#include "parallel/base/rng.h"

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

template <class T>
ParamStore<T>::ParamStore(const ParamLayout& layout, DeviceKind device, bool with_grads) : layout_(&layout) {
  for (int g = 0; g < kNumGroups; ++g) {
    const int64_t n = layout.group_size(Group(g));
    const auto view = [n](const Buffer& buffer) {
      return View<T, 1>(reinterpret_cast<T*>(buffer.data()), {n});
    };
    value_memory_[g] = Buffer(device, size_t(n) * sizeof(T));
    values_[g] = view(value_memory_[g]);
    if (!with_grads) continue;
    grad_memory_[g] = Buffer(device, size_t(n) * sizeof(T));
    grads_[g] = view(grad_memory_[g]);
  }
}

template <class T>
void ParamStore<T>::initialize(uint64_t seed) {
  for (size_t i = 0; i < layout_->table().rows().size(); ++i) {
    const ParamRow& row = layout_->table().row(int(i));
    const Placement& place = layout_->at(int(i));
    T* out = values_[int(place.group)].data() + place.offset;
    if (row.init.kind != Init::kNormal) {
      std::fill_n(out, place.count, row.init.kind == Init::kOnes ? T(1) : T(0));
      continue;
    }
    const base::Philox random(base::mix(seed, base::hash_name(row.name)));
    for (int64_t e = 0; e < place.count; ++e) {
      out[e] = T(random.normal(uint64_t(place.global_begin + e)) * row.init.std);
    }
  }
}

template <class T>
void ParamStore<T>::zero_grads() {
  for (View<T, 1>& grads : grads_) {
    if (!grads.empty()) std::fill(grads.begin(), grads.end(), T(0));
  }
}

template class ParamStore<float>;
template class ParamStore<double>;

}  // namespace cadre::device
