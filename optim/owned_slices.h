// A rank's slices of the parameters, and the order in which a step goes through them.
#pragma once

#include <absl/functional/function_ref.h>

#include <functional>
#include <vector>

#include "parallel/comm/shards.h"
#include "parallel/device/param_table.h"

namespace cadre::optim {

struct OwnedSlices {
  std::vector<comm::Piece> pieces[device::kNumGroups];
  int64_t state_size[device::kNumGroups] = {0, 0};
  // Whether this rank's slices of a group enter the gradient norm: false where another rank owns the same
  // elements too (mesh.zero = 0, all but the first of the ranks that share them).
  bool in_norm[device::kNumGroups] = {true, true};
  // Whether other ranks hold the group's rows too, or sums come bucket by bucket for another reason (sharded gradients).
  bool shared[device::kNumGroups] = {false, false};
};

// What joined() keeps apart beside rows with a gap between them.
struct Apart {
  bool decay = false;   // rows with and without
  bool bucket = false;  // rows of different buckets
};
// Pieces that follow one another in the flat buffer and in the state, as one piece with the first one's row: fewer and
// larger kernels.
std::vector<comm::Piece> joined(const std::vector<comm::Piece>& pieces, const device::ParamTable& table,
                                Apart apart);

using BucketHook = std::function<void(int bucket)>;
using PieceBody = absl::FunctionRef<void(device::Group, const comm::Piece&)>;

// Visits pieces[group], of which those of shared groups span no two buckets. Shared groups come first, bucket by bucket
// in the order of the forward pass, and updated(bucket), which may be empty, is called after each: their values can
// travel beside what follows. What is this rank's alone comes last.
void for_each_piece(const OwnedSlices& slices, const std::vector<comm::Piece> (&pieces)[device::kNumGroups],
                    const device::ParamTable& table, PieceBody update, const BucketHook& updated);
// The other way round, for sums of gradients: what is this rank's alone first, then bucket by bucket in the order of the
// backward pass, needed(bucket) before each.
void for_each_piece_backward(const OwnedSlices& slices,
                             const std::vector<comm::Piece> (&pieces)[device::kNumGroups],
                             const device::ParamTable& table, PieceBody add, const BucketHook& needed);

}  // namespace cadre::optim
