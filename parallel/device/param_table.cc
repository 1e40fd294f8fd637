#include "parallel/device/param_table.h"

#include <algorithm>

#include "parallel/base/errors.h"

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

ParamLayout::ParamLayout(const ParamTable& table, int ep_size, int ep_rank)
    : table_(&table), ep_size_(ep_size) {
  for (auto& buckets : buckets_) buckets.resize(table.num_buckets());
  for (const ParamRow& row : table.rows()) {
    Placement place;
    place.group = row.group;
    place.count = row.numel();
    if (row.group == Group::kExpert) {
      const int64_t parts = row.shape[size_t(row.split_axis)];
      require(parts % ep_size == 0, ExitCode::kUsage,
              "{} has {} {}, which mesh.ep = {} does not divide; change moe.{} or mesh.ep", row.name, parts,
              row.split_axis == 0 ? "experts" : "columns of an expert", ep_size,
              row.split_axis == 0 ? "num_experts" : "width");
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

ElementOrder ParamLayout::order(int row) const {
  const ParamRow& r = table_->row(row);
  return {r.shape, r.split_axis, r.group == Group::kExpert ? ep_size_ : 1};
}

}  // namespace cadre::device
