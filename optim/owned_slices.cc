#include "optim/owned_slices.h"

namespace cadre::optim {
namespace {

using device::Group;

void visit_own(const OwnedSlices& slices, const std::vector<comm::Piece> (&pieces)[device::kNumGroups],
               PieceBody body) {
  for (int g = 0; g < device::kNumGroups; ++g) {
    if (slices.shared[g]) continue;
    for (const comm::Piece& piece : pieces[g]) body(Group(g), piece);
  }
}

void visit_bucket(const OwnedSlices& slices, const std::vector<comm::Piece> (&pieces)[device::kNumGroups],
                  const device::ParamTable& table, int bucket, PieceBody body) {
  for (int g = 0; g < device::kNumGroups; ++g) {
    if (!slices.shared[g]) continue;
    for (const comm::Piece& piece : pieces[g]) {
      if (table.row(piece.row).bucket == bucket) body(Group(g), piece);
    }
  }
}

}  // namespace

std::vector<comm::Piece> joined(const std::vector<comm::Piece>& pieces, const device::ParamTable& table,
                                Apart apart) {
  std::vector<comm::Piece> result;
  const auto together = [&](const comm::Piece& last, const comm::Piece& piece) {
    const device::ParamRow &a = table.row(last.row), &b = table.row(piece.row);
    return last.group_offset + last.count == piece.group_offset &&
           last.state_offset + last.count == piece.state_offset && (!apart.decay || a.decay == b.decay) &&
           (!apart.bucket || a.bucket == b.bucket);
  };
  for (const comm::Piece& piece : pieces) {
    if (!result.empty() && together(result.back(), piece)) {
      result.back().count += piece.count;
    } else {
      result.push_back(piece);
    }
  }
  return result;
}

void for_each_piece(const OwnedSlices& slices, const std::vector<comm::Piece> (&pieces)[device::kNumGroups],
                    const device::ParamTable& table, PieceBody update, const BucketHook& updated) {
  for (int bucket = 0; bucket < table.num_buckets(); ++bucket) {
    visit_bucket(slices, pieces, table, bucket, update);
    if (updated) updated(bucket);
  }
  visit_own(slices, pieces, update);
}

void for_each_piece_backward(const OwnedSlices& slices,
                             const std::vector<comm::Piece> (&pieces)[device::kNumGroups],
                             const device::ParamTable& table, PieceBody add, const BucketHook& needed) {
  visit_own(slices, pieces, add);
  for (int bucket = table.num_buckets() - 1; bucket >= 0; --bucket) {
    if (needed) needed(bucket);
    visit_bucket(slices, pieces, table, bucket, add);
  }
}

}  // namespace cadre::optim
