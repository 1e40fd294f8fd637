// How persistent blocks share the tiles of a grouped product: tiles are numbered group by group from offsets
// that only the device knows, and each block takes every gridDim-th. Every role of a block walks by itself and
// finds the same tiles.
#pragma once

#include <cstdint>

namespace cadre::moe::cuda {

struct TilePlace {
  int group;
  int m, n;       // tile coordinates in the group's output
  int64_t begin;  // first row of the group
  int64_t rows;   // rows of the group
};

// kRagged: tiles are cut over a group's rows (products, data gradients). Otherwise every group has the same
// number of tiles (weight gradients), or none when it has no rows and `skip_empty`.
template <bool kRagged, int kTileRows>
class GroupWalk {
 public:
  __device__ GroupWalk(const int64_t* offsets, int groups, int m_tiles, int n_tiles, bool skip_empty)
      : offsets_(offsets),
        groups_(groups),
        fixed_m_tiles_(m_tiles),
        n_tiles_(n_tiles),
        skip_empty_(skip_empty) {
    enter(0);
  }
  // `tile` must not fall from call to call. False when there is no such tile.
  __device__ bool seek(int64_t tile, TilePlace& place) {
    while (tile >= first_ + int64_t(m_tiles_) * n_tiles_) {
      first_ += int64_t(m_tiles_) * n_tiles_;
      if (group_ + 1 >= groups_) return false;
      enter(group_ + 1);
    }
    // Panels of a few tile rows keep the rows and columns that are in flight together inside the L2 cache.
    constexpr int kPanel = 16;
    const int local = int(tile - first_), panel = local / (kPanel * n_tiles_);
    const int rest = local - panel * kPanel * n_tiles_;
    const int height = min(kPanel, m_tiles_ - panel * kPanel);
    place = {group_, panel * kPanel + rest % height, rest / height, begin_, rows_};
    return true;
  }

 private:
  __device__ void enter(int group) {
    group_ = group;
    begin_ = offsets_[group];
    rows_ = offsets_[group + 1] - begin_;
    m_tiles_ =
        kRagged ? int((rows_ + kTileRows - 1) / kTileRows) : (rows_ > 0 || !skip_empty_ ? fixed_m_tiles_ : 0);
  }

  const int64_t* offsets_;
  int groups_, fixed_m_tiles_, n_tiles_;
  bool skip_empty_;
  int group_ = 0, m_tiles_ = 0;
  int64_t first_ = 0, begin_ = 0, rows_ = 0;
};

}  // namespace cadre::moe::cuda
