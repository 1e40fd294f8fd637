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
    const int64_t unit = rows[i].update == device::Update::kElement || rows[i].split_axis == 0
                             ? rows[i].matrix_numel()
                             : rows[i].matrix_numel() / layout.order(int(i)).parts();
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

std::vector<device::OwnedRange> ShardPlan::owned(int rank) const {
  std::vector<device::OwnedRange> ranges;
  int64_t state_offset = 0;
  for (int b = 0; b < num_buckets(); ++b) {
    const device::FlatRange bucket = layout_->bucket(group_, b);
    const int64_t begin = zero_ != 0 ? cuts_[size_t(b)][size_t(rank)] : bucket.begin;
    const int64_t end = zero_ != 0 ? cuts_[size_t(b)][size_t(rank) + 1] : bucket.end;
    ranges.push_back({begin, state_offset, end - begin});
    state_offset += end - begin;
  }
  return ranges;
}

device::StoreParts shard_store(device::StoreParts parts, const Mesh& mesh, const ShardPlan& dense,
                               const ShardPlan& expert) {
  const ShardPlan* plans[] = {&dense, &expert};
  const int ranks[] = {mesh.data().rank(), mesh.replicas().rank()};
  for (int g = 0; g < device::kNumGroups; ++g) {
    const ShardPlan& plan = *plans[g];
    const bool shared = plan.ranks() > 1;
    device::Sharding& sharding = parts.shardings[g];
    sharding.owned = plan.owned(ranks[g]);
    if (!parts.grads) continue;
    sharding.masters = plan.zero() >= 1 && shared;
    sharding.grads = plan.zero() >= 2 && (shared || (parts.sums && dense.ranks() > 1));
    sharding.values = plan.zero() >= 3 && shared;
  }
  return parts;
}

}  // namespace cadre::comm
