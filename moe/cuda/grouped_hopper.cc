#include "moe/cuda/grouped_hopper.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <iterator>

#include "moe/cuda/group_order.h"
#include "moe/cuda/hopper_gemm.h"
#include "moe/cuda/launch.h"
#include "parallel/device/cuda/tensor_map.h"

namespace cadre::moe::cuda {
namespace {

using device::bf16;
using device::View;

CUtensorMap rows_map(ConstRows v, int box_rows) {
  return device::cuda::tensor_map(v.data(), 1, v.dim(0), v.dim(1), box_rows);
}
CUtensorMap weights_map(Weights v, int box_rows) {
  return device::cuda::tensor_map(v.data(), v.dim(0), v.dim(1), v.dim(2), box_rows);
}

int tiles(int64_t n, int64_t tile) {
  return int((n + tile - 1) / tile);
}
__nv_bfloat16* raw(bf16* p) {
  return reinterpret_cast<__nv_bfloat16*>(p);
}

// As many blocks as can work, whole pairs of them.
int block_count(int64_t tile_count) {
  return int(std::min<int64_t>(multiprocessors(), tile_count + (tile_count & 1)));
}

// For forms whose groups cut the rows of the output. No pairs of blocks here: sharing the b tile saves reads of
// the L2 cache, but keeps the two in step, and measured 0 to 4% slower.
template <Form kForm>
void launch_between(GemmParams& p, int64_t rows, Offsets begins, Offsets ends, cudaStream_t stream) {
  p.offsets = begins.data();
  p.ends = ends.data();
  p.groups = begins.empty() ? 1 : int(begins.dim(0));
  p.rows = rows;
  p.small_groups = !begins.empty() && rows <= int64_t(p.groups) * kTileM / 2;
  if (!p.small_groups) p.claims = tile_claims(stream);
  launch_hopper<kForm, 1>(p, block_count((rows / kTileM + p.groups) * p.n_tiles), stream);
}
template <Form kForm>
void launch_ragged(GemmParams& p, int64_t rows, Offsets offsets, cudaStream_t stream) {
  if (offsets.empty()) return launch_between<kForm>(p, rows, {}, {}, stream);
  const int64_t groups = offsets.dim(0) - 1;
  launch_between<kForm>(p, rows, offsets.rows(0, groups), offsets.rows(1, groups), stream);
}

void gemm(cudaStream_t stream, ConstRows a, Weights w, Offsets begins, Offsets ends, Rows y) {
  GemmParams p{};
  p.a[0] = rows_map(a, kTileM);
  p.b[0] = weights_map(w, kTileN / 2);
  p.n = w.dim(1);
  p.n_tiles = tiles(p.n, kTileN);
  p.k_blocks = tiles(w.dim(2), kTileK);
  p.out = raw(y.data());
  launch_between<Form::kForward>(p, a.dim(0), begins, ends, stream);
}

void dgrad(cudaStream_t stream, ConstRows b, Weights w, Offsets offsets, bool accumulate, Rows da) {
  GemmParams p{};
  p.a[0] = rows_map(b, kTileM);
  p.b[0] = weights_map(w, 64);
  p.n = w.dim(2);
  p.n_tiles = tiles(p.n, kTileN);
  p.k_blocks = tiles(w.dim(1), kTileK);
  p.accumulate = accumulate;
  p.out = raw(da.data());
  launch_ragged<Form::kDgrad>(p, b.dim(0), offsets, stream);
}

// Pairs of blocks share the b tile where the rows of a weight gradient come in pairs of tiles.
bool in_pairs(int64_t rows) {
  return rows % (2 * kTileM) == 0;
}

void wgrad(device::Queue& queue, ConstRows b, ConstRows a, Offsets offsets, bool accumulate,
           View<bf16, 3> dw) {
  GemmParams p{};
  p.accumulate = accumulate;
  p.a[0] = rows_map(b, 64);
  p.b[0] = rows_map(a, 64);
  p.offsets = offsets.data();
  p.groups = int(dw.dim(0));
  const cudaStream_t stream = stream_of(queue);
  p.next = reinterpret_cast<int32_t*>(scratch_of(queue, size_t(p.groups + 1) * sizeof(int32_t)));
  p.order = p.next + 1;
  order_groups(stream, p.offsets, p.groups, p.next);
  p.m = dw.dim(1);
  p.n = dw.dim(2);
  p.n_tiles = tiles(p.n, kTileN);
  const bool pairs = in_pairs(p.m);
  p.m_tiles = tiles(p.m, pairs ? 2 * kTileM : kTileM);
  p.out = raw(dw.data());
  const int blocks = block_count(int64_t(p.groups) * tiles(p.m, kTileM) * p.n_tiles);
  if (pairs) {
    launch_hopper<Form::kWgrad, 2>(p, blocks, stream);
  } else {
    launch_hopper<Form::kWgrad, 1>(p, blocks, stream);
  }
}

}  // namespace

const GroupedProducts<bf16>& hopper_products() {
  static constexpr GroupedProducts<bf16> kProducts = {gemm, dgrad, wgrad};
  return kProducts;
}

int64_t hopper_partials(int64_t width) {
  return tiles(width, kTileN);
}

void hopper_swiglu(cudaStream_t stream, ConstRows x, Weights w_gate, Weights w_up, Offsets offsets, Rows gate,
                   Rows up, Rows act) {
  GemmParams p{};
  p.a[0] = rows_map(x, kTileM);
  p.b[0] = weights_map(w_gate, kTileN / 2);
  p.b[1] = weights_map(w_up, kTileN / 2);
  p.n = w_gate.dim(1);
  p.n_tiles = tiles(p.n, kTileN / 2);
  p.k_blocks = tiles(w_gate.dim(2), kTileK);
  p.gate = raw(gate.data());
  p.up = raw(up.data());
  p.out = raw(act.data());
  launch_ragged<Form::kSwiglu>(p, x.dim(0), offsets, stream);
}

void hopper_dgrad_sum(cudaStream_t stream, std::span<const HopperTerm> terms, Offsets offsets, Rows dx) {
  assert(!terms.empty() && terms.size() <= kMostTerms);
  GemmParams p{};
  p.n = dx.dim(1);
  p.n_tiles = tiles(p.n, kTileN);
  p.out = raw(dx.data());
  for (size_t i = 0; i < terms.size(); ++i) {
    p.a[i] = rows_map(terms[i].b, kTileM);
    p.b[i] = weights_map(terms[i].w, 64);
    p.k_blocks += tiles(terms[i].w.dim(1), kTileK);
    for (size_t end = i; end < std::size(p.term_end); ++end) p.term_end[end] = p.k_blocks;
  }
  launch_ragged<Form::kDgradSum>(p, dx.dim(0), offsets, stream);
}

namespace {

GemmParams swiglu_backward_params(ConstRows dy, Weights w_down, Rows gate, Rows up) {
  GemmParams p{};
  p.a[0] = rows_map(dy, kTileM);
  p.b[0] = weights_map(w_down, 64);
  p.n = w_down.dim(2);
  p.n_tiles = tiles(p.n, kTileN);
  p.k_blocks = tiles(w_down.dim(1), kTileK);
  p.gate = raw(gate.data());
  p.up = raw(up.data());
  p.read[0] = rows_map(gate, kTileM);
  p.read[1] = rows_map(up, kTileM);
  return p;
}

}  // namespace

void hopper_swiglu_backward(cudaStream_t stream, ConstRows dy, Weights w_down, Offsets offsets,
                            View<const float, 1> weight, Rows gate, Rows up, Rows out,
                            View<float, 2> partial) {
  GemmParams p = swiglu_backward_params(dy, w_down, gate, up);
  p.out = raw(out.data());
  p.weight = weight.data();
  p.partial = partial.data();
  launch_ragged<Form::kSwigluBackward>(p, dy.dim(0), offsets, stream);
}

void hopper_dense_swiglu_backward(cudaStream_t stream, ConstRows dy, Weights w_down, Offsets offsets,
                                  Rows gate, Rows up) {
  GemmParams p = swiglu_backward_params(dy, w_down, gate, up);
  launch_ragged<Form::kDenseSwigluBackward>(p, dy.dim(0), offsets, stream);
}

void hopper_wgrads(cudaStream_t stream, Wgrads layers, bool accumulate) {
  static_assert(kMostWgrads == kMostProducts);
  assert(!layers.empty() && layers.size() <= kMostWgrads);
  const bool pairs = std::ranges::all_of(layers, [](const auto& layer) { return in_pairs(layer.dw.dim(0)); });
  GemmParams p{};
  p.groups = int(layers.size());
  p.rows = layers[0].a.dim(0);
  p.accumulate = accumulate;
  p.claims = tile_claims(stream);
  int end = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& [b, a, dw] = layers[i];
    assert(a.dim(0) == p.rows && b.dim(0) == p.rows);
    p.a[i] = rows_map(b, 64);
    p.b[i] = rows_map(a, 64);
    const int m_tiles = tiles(dw.dim(0), pairs ? 2 * kTileM : kTileM), n_tiles = tiles(dw.dim(1), kTileN);
    end += m_tiles * n_tiles;
    p.products[i] = {raw(dw.data()), dw.dim(0), dw.dim(1), m_tiles, n_tiles, end};
  }
  if (pairs) {
    launch_hopper<Form::kDenseWgrads, 2>(p, block_count(2 * end), stream);
  } else {
    launch_hopper<Form::kDenseWgrads, 1>(p, block_count(end), stream);
  }
}

bool fill_waves_together(Wgrads layers, int blocks) {
  const auto waves = [&](int64_t count) { return (count + blocks - 1) / blocks; };
  int64_t all = 0, waves_alone = 0;
  for (const auto& layer : layers) {
    const int64_t count = int64_t(tiles(layer.dw.dim(0), kTileM)) * tiles(layer.dw.dim(1), kTileN);
    all += count;
    waves_alone += waves(count);
  }
  return waves(all) < waves_alone && 10 * all >= 9 * waves(all) * blocks;
}

}  // namespace cadre::moe::cuda
