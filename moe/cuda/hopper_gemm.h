// Grouped bf16 products on sm_90a: what one launch needs to know, and the forms that the experts, and layers without
// any, use. The kernel is in hopper_kernel.cuh; each .cu file that includes it instantiates some forms.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace cadre::moe::cuda {

// Rows [offsets[e], ends[e]) belong to group e; M, N and K are the sizes of one group's product.
enum class Form {
  kForward,   // out = a b^T, b (E, N, K)
  kSwiglu,    // gate = a b0^T, up = a b1^T, out = silu(gate) up; N counts both, 128 columns of each a tile
  kDgrad,     // out = (accumulate ? out : 0) + a b, b (E, K, N)
  kDgradSum,  // out = a0 b0 + a1 b1 + a2 b2, or fewer; K may differ
  kSwigluBackward,       // d = a b; then as MoeKernels::grouped_swiglu_backward says
  kDenseSwigluBackward,  // the same with a weight of 1 and without out: OneExpert::swiglu_backward
  kWgrad,        // out[e] (M, N) = (accumulate ? out[e] : 0) + a^T b over the rows of e, a ragged contraction
  kDenseWgrads,  // out_i (M_i, N_i) = (accumulate ? out_i : 0) + a_i^T b_i over all rows: OneExpert::wgrads
};

inline constexpr int kMostProducts = 4;
// What kDenseWgrads writes to. Tiles of all products are numbered one product after the other.
struct DenseWgrad {
  __nv_bfloat16* out;
  int64_t m, n;
  int m_tiles, n_tiles;  // of a cluster
  int tiles_end;         // of this product and those before
};

struct GemmParams {
  CUtensorMap a[kMostProducts], b[kMostProducts];
  CUtensorMap read[2];     // of SwiGLU's way back: gate and up, which the epilogue reads
  const int64_t* offsets;  // null: one group of all rows; not for kWgrad
  const int64_t* ends;     // offsets + 1 where groups follow each other; unused for weight gradients
  int groups;              // kDenseWgrads: products
  DenseWgrad products[kMostProducts];
  const int32_t* order;  // kWgrad: the groups by falling size
  int32_t* next;         // kWgrad: the next tile that nobody has claimed, 0 at the start
  // Other forms: null, and block b of B makes the tiles b, b + B, ...; or the next tile that nobody has claimed and the number
  // of blocks that are done claiming, both 0 before and after.
  int32_t* claims;
  int m_tiles;  // kWgrad: of the M axis; else unused
  int n_tiles;
  int k_blocks;     // of all terms; unused for weight gradients
  int term_end[2];  // kDgradSum: k blocks of the first term, and of the first two
  int64_t m, n;     // kWgrad: matrix sizes; else n columns of the outputs
  bool accumulate;
  bool small_groups;  // kForward, kSwiglu: most groups are one tile of rows
  __nv_bfloat16 *out, *gate, *up;
  const float* weight;
  float* partial;  // (n_tiles, rows) of kSwigluBackward
  int64_t rows;    // not for kWgrad: all that there are, the row stride of partial
};

inline constexpr int kTileM = 128, kTileN = 256, kTileK = 64;
// Of a block's first tile, what weights may come into the cache before it runs: together 25 MB of an H200's 50.
inline constexpr int kBlocksAhead = 6;

// Blocks of a cluster share the b tile, each loading half of it.
template <Form kForm, int kCluster>
void launch_hopper(const GemmParams& params, int blocks, cudaStream_t stream);

}  // namespace cadre::moe::cuda
