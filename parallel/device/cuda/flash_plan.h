// Which tiles the attention kernels of sm_90a visit, and which of them need a mask: plain arithmetic that the host can
// test. A block keeps kOwn rows of one head (an item), each of its two warpgroups kHalf of them; tiles of the other side
// pass by both. Every role of a block asks the same functions, so that all agree how many tiles pass.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CADRE_BOTH __host__ __device__
#else
#define CADRE_BOTH
#endif

namespace cadre::device::cuda::hopper {

inline constexpr int kOwn = 128, kHalf = 64;

// The first token of a token's document and the one behind the last, within its sequence.
struct Document {
  int begin, end;
};

// Of token `at` of a sequence. The tokens of a document stand together, so that a binary search finds its bounds.
CADRE_BOTH inline Document document_of(const int32_t* segment, int length, int at) {
  const int32_t own = segment[at];
  int low = 0, high = at;  // the first one is in [low, high]
  while (low < high) {
    const int middle = (low + high) / 2;
    if (segment[middle] == own) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const int begin = low;
  low = at + 1, high = length;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (segment[middle] == own) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return {begin, low};
}

// The items of a kernel: `pairs` of sequence and head, in sections whose other side fits into the L2 cache together.
struct Items {
  int length, pairs, section;
  CADRE_BOTH int blocks() const { return (length + kOwn - 1) / kOwn; }
};
struct Place {
  int block, pair;
};
// The item of this number, section by section, in each the long rows first (rising: block 0 is the longest). Numbers
// from 0 to pairs * blocks() - 1 are items, each once; larger ones are not, for which it says false.
CADRE_BOTH inline bool place_of(const Items& items, int number, bool rising, Place& place) {
  const int blocks = items.blocks();
  if (number >= items.pairs * blocks) return false;
  const int section = number / (items.section * blocks), first = section * items.section;
  const int pairs = items.section < items.pairs - first ? items.section : items.pairs - first;
  const int local = number - first * blocks, rank = local / pairs;
  place = {rising ? rank : blocks - 1 - rank, first + local % pairs};
  return true;
}

// Tiles [begin, end) of the other side. `documents` below: of each token of the sequence, or null.
struct Tiles {
  int begin, end;
};

// ---- Queries are kept, keys pass by from the last tile to the first (forward, dq) ----
template <int kKeys>
CADRE_BOTH inline Tiles keys_of_rows(int first, int rows, int length, const Document* documents) {
  const int low = first < length ? first : length - 1, high = first + rows < length ? first + rows : length;
  return {documents == nullptr ? 0 : documents[low].begin / kKeys, (high - 1) / kKeys + 1};
}
// What passes by a block.
template <int kKeys>
CADRE_BOTH inline Tiles keys_of_block(int block, int length, const Document* documents) {
  return keys_of_rows<kKeys>(block * kOwn, kOwn, length, documents);
}
// What the warpgroup whose first row is `first` multiplies: a part of it, never empty. Behind the sequence's end, where
// nothing is written, it is the last tile's.
template <int kKeys>
CADRE_BOTH inline Tiles keys_of_half(int first, int length, const Document* documents) {
  return keys_of_rows<kKeys>(first, kHalf, length, documents);
}
// Every row of the block sees what lies from here to itself.
CADRE_BOTH inline int key_edge(int block, int length, const Document* documents) {
  const int end = block * kOwn + kOwn;
  return documents == nullptr ? 0 : documents[(end < length ? end : length) - 1].begin;
}
// Whether a row of the warpgroup does not see all of the tile's keys.
template <int kKeys>
CADRE_BOTH inline bool keys_need_mask(int tile, int first, int edge) {
  return tile * kKeys + kKeys - 1 > first || tile * kKeys < edge;
}
CADRE_BOTH inline bool sees(int query, int key, int begin) {
  return key <= query && key >= begin;
}

// ---- Keys are kept, queries pass by from the first tile to the last (dk and dv) ----
template <int kQueries>
CADRE_BOTH inline Tiles queries_of_rows(int first, int rows, int length, const Document* documents) {
  const int last = (first + rows < length ? first + rows : length) - 1;
  const int end = documents == nullptr ? length : documents[last].end;
  return {first / kQueries, (end + kQueries - 1) / kQueries};
}
template <int kQueries>
CADRE_BOTH inline Tiles queries_of_block(int block, int length, const Document* documents) {
  return queries_of_rows<kQueries>(block * kOwn, kOwn, length, documents);
}
// A part of the block's; empty where the warpgroup's keys lie behind the sequence's end.
template <int kQueries>
CADRE_BOTH inline Tiles queries_of_half(int first, int length, const Document* documents) {
  return queries_of_rows<kQueries>(first, kHalf, length, documents);
}
// Every key of the block is seen by what lies from itself to here.
CADRE_BOTH inline int query_edge(int block, int length, const Document* documents) {
  return documents == nullptr ? length : documents[block * kOwn].end;
}
template <int kQueries>
CADRE_BOTH inline bool queries_need_mask(int tile, int first, int edge) {
  return tile * kQueries < first + kHalf - 1 || tile * kQueries + kQueries > edge;
}
CADRE_BOTH inline bool seen_by(int key, int query, int end) {
  return key <= query && query < end;
}

}  // namespace cadre::device::cuda::hopper
