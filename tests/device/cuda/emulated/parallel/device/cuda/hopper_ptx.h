// Stands for parallel/device/cuda/hopper_ptx.h on the host: the same functions, done by machine.h. Found first where a
// test compiles kernels for the host.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace cadre::device::cuda::ptx {

inline emulated::Machine& machine() {
  return *emulated::machine;
}

inline uint32_t shared_address(const void* memory) {
  return machine().place_shared(memory);
}

// What a CUtensorMap holds here: bf16 (z, y, x), boxes of 64 by box_y.
struct TensorMap {
  const uint16_t* data;
  int64_t z, y, x;
  int box_y;
};

inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  machine().barrier_init(barrier, int(arrivals));
}
inline void barrier_arrive(uint32_t barrier) {
  machine().arrive(barrier, 0);
}
inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  machine().arrive(barrier, bytes);
}
inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  machine().wait(barrier, parity);
}
inline void fence_barrier_init() {}
inline void fence_async_proxy() {}
// A cluster is one block.
inline uint32_t block_in_cluster() {
  return 0;
}
inline void cluster_sync() {
  machine().sync_block();
}
inline void barrier_arrive_at(uint32_t barrier, uint32_t) {
  barrier_arrive(barrier);
}
inline void barrier_release_at(uint32_t barrier, uint32_t) {
  barrier_arrive(barrier);
}
inline void barrier_acquire(uint32_t barrier, uint32_t parity) {
  barrier_wait(barrier, parity);
}
inline void copy_box(const CUtensorMap* map, uint32_t barrier, uint32_t to, int32_t x, int32_t y, int32_t z) {
  TensorMap m;
  std::memcpy(&m, map, sizeof(m));
  std::vector<uint8_t> box(size_t(m.box_y) * 128, 0);
  for (int row = 0; row < m.box_y && y + row < m.y; ++row) {
    for (int column = 0; column < 64 && x + column < m.x; ++column) {
      const uint32_t line = uint32_t(row * 128 + column * 2);
      std::memcpy(&box[line ^ (uint32_t(row) & 7) << 4], m.data + (z * m.y + y + row) * m.x + x + column, 2);
    }
  }
  machine().copy(barrier, to, std::move(box));
}
inline void copy_box_to_cluster(const CUtensorMap* map, uint32_t barrier, uint32_t to, int32_t x, int32_t y,
                                int32_t z, uint16_t) {
  copy_box(map, barrier, to, x, y, z);
}
inline void prefetch_box(const CUtensorMap* map, int32_t x, int32_t y, int32_t z) {
  TensorMap m;
  std::memcpy(&m, map, sizeof(m));
  if (x < 0 || y < 0 || z < 0 || z >= m.z) throw std::runtime_error("a prefetch is outside its tensor");
}
inline void copy_bytes(const void* from, uint32_t barrier, uint32_t to, uint32_t bytes) {
  const auto* p = static_cast<const uint8_t*>(from);
  machine().copy(barrier, to, {p, p + bytes});
}

inline void store_bytes(void* to, uint32_t from, uint32_t bytes) {
  machine().store(static_cast<uint8_t*>(to), from, bytes, false);
}
inline void add_floats(float* to, uint32_t from, uint32_t bytes) {
  machine().store(reinterpret_cast<uint8_t*>(to), from, bytes, true);
}
inline void commit_stores() {
  machine().commit_stores();
}
template <int kPending>
inline void wait_stores() {
  machine().wait_stores(kPending);
}
template <int kNumber>
inline void sync_warpgroup() {
  machine().sync_warpgroup(kNumber);
}
inline float exp2(float x) {
  return x < -126.f ? 0.f : std::exp2(x);
}

inline void wgmma_begin() {}
inline void wgmma_commit() {
  machine().commit();
}
template <int kPending>
inline void wgmma_wait() {
  machine().wait_products(kPending);
}
template <int kCount>
inline void wgmma_pin(float (&)[kCount]) {}
template <int kCount>
inline void wgmma_pin(uint32_t (&)[kCount]) {}
template <int kAcrossA, int kAcrossB, int kCount>
inline void wgmma(float (&d)[kCount], uint64_t a, uint64_t b, int32_t keep) {
  machine().meet({3, {}});
  machine().issue({d, kCount * 2, keep != 0, false, kAcrossA != 0, kAcrossB != 0, a, b, {}});
}
template <int kCount>
inline void wgmma(float (&d)[kCount], uint64_t a, uint64_t b, int32_t keep) {
  wgmma<0, 0>(d, a, b, keep);
}
template <int kAcrossA = 0, int kAcrossB = 0, int kCount>
inline void wgmma_first(float (&d)[kCount], uint64_t a, uint64_t b) {
  std::fill(d, d + kCount, NAN);
  wgmma<kAcrossA, kAcrossB>(d, a, b, 0);
}
template <int kCount>
inline void wgmma(float (&d)[kCount], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b,
                  int32_t keep) {
  const auto* all = machine().meet({4, {a0, a1, a2, a3}});
  emulated::Product product{d, kCount * 2, keep != 0, true, false, true, 0, b, {}};
  const int first = machine().thread() % 32 / 4 * 4;
  for (int i = 0; i < 4; ++i) product.quad[size_t(i)] = all[first + i].words;
  machine().issue(product);
}

inline void store_matrices(uint32_t to, const uint32_t (&r)[4]) {
  const auto* all = machine().meet({5, {to}});
  const int lane = machine().thread() % 32;
  for (int i = 0; i < 4; ++i)
    std::memcpy(machine().at(all[8 * i + lane / 4].words[0] + uint32_t(lane % 4 * 4)), &r[i], 4);
}
inline void load_matrices(uint32_t from, uint32_t (&r)[4]) {
  const auto* all = machine().meet({6, {from}});
  const int lane = machine().thread() % 32;
  for (int i = 0; i < 4; ++i)
    std::memcpy(&r[i], machine().at(all[8 * i + lane / 4].words[0] + uint32_t(lane % 4 * 4)), 4);
}
inline void copy_unit(uint32_t to, const void* from, bool live) {
  live ? std::memcpy(machine().at(to), from, 16) : std::memset(machine().at(to), 0, 16);
}
inline void commit_units() {}
template <int kPending>
inline void wait_for_units() {}
inline uint4 load_shared(uint32_t from) {
  uint4 v;
  std::memcpy(&v, machine().at(from), 16);
  return v;
}
inline void store_shared(uint32_t to, const uint4& v) {
  std::memcpy(machine().at(to), &v, 16);
}
inline void store_shared_at(uint32_t to, uint32_t, const uint4& v) {
  store_shared(to, v);
}
template <int kRegisters>
inline void take_registers() {}
template <int kRegisters>
inline void give_registers() {}

}  // namespace cadre::device::cuda::ptx
