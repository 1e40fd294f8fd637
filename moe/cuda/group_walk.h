// Where the tiles of a grouped product lie, from offsets that only the device knows. Where all tiles cost the same,
// they are numbered group by group and each block takes every gridDim-th: every role of a block walks by itself and
// finds the same ones.
#pragma once

#include <cstdint>

namespace cadre::moe::cuda {

struct TilePlace {
  int group;
  int m, n;       // tile coordinates in the group's output
  int64_t begin;  // first row of the group
  int64_t rows;   // rows of the group
};

struct PanelPlace {
  int m, n;
};
// Panels of a few tile rows keep the rows and columns that are in flight together inside the L2 cache.
__device__ inline PanelPlace place_in_panels(int tile, int m_tiles, int n_tiles) {
  constexpr int kPanel = 16;
  const int panel = tile / (kPanel * n_tiles), rest = tile - panel * kPanel * n_tiles;
  const int height = min(kPanel, m_tiles - panel * kPanel);
  return {panel * kPanel + rest % height, rest / height};
}

// Tiles are cut over a group's rows (products, data gradients).
template <int kTileRows>
class GroupWalk {
 public:
  // Rows [begins[g], ends[g]) are group g's; null for one group of all rows.
  __device__ GroupWalk(const int64_t* begins, const int64_t* ends, int groups, int64_t all_rows, int n_tiles)
      : begins_(begins), ends_(ends), groups_(groups), n_tiles_(n_tiles), rows_(all_rows) {
    enter(0);
  }
  // `tile` must not fall from call to call. False when there is no such tile.
  __device__ bool seek(int64_t tile, TilePlace& place) {
    while (tile >= first_ + int64_t(m_tiles_) * n_tiles_) {
      first_ += int64_t(m_tiles_) * n_tiles_;
      if (group_ + 1 >= groups_) return false;
      enter(group_ + 1);
    }
    const PanelPlace local = place_in_panels(int(tile - first_), m_tiles_, n_tiles_);
    place = {group_, local.m, local.n, begin_, rows_};
    return true;
  }

 private:
  __device__ void enter(int group) {
    group_ = group;
    if (begins_ != nullptr) {
      begin_ = begins_[group];
      rows_ = ends_[group] - begin_;
    }
    m_tiles_ = int((rows_ + kTileRows - 1) / kTileRows);
  }

  const int64_t *begins_, *ends_;
  int groups_, n_tiles_;
  int group_ = 0, m_tiles_ = 0;
  int64_t first_ = 0, begin_ = 0, rows_;
};

}  // namespace cadre::moe::cuda
