// Moving rows on CUDA: gather by index, weighted sums of rows in a fixed order, and the lists that name them.
#include "moe/cuda/entries.h"
#include "moe/cuda/few_slots.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/values.cuh"
#include "parallel/device/cuda/launch_behind.cuh"

namespace cadre::moe::cuda {
namespace {

using device::Queue;
using device::View;
using device::cuda::check;
using device::cuda::launch;
using device::cuda::launch_behind;
using device::cuda::let_next_come;
using device::cuda::wait_for_kernel_before;

constexpr int kThreads = 256;

bool packs(int64_t width, int64_t per_pack, std::initializer_list<const void*> bases) {
  return width % per_pack == 0 &&
         std::ranges::all_of(bases, [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
}

// One pack of a row a thread and step; rows follow each other in the grid.
template <class N, int kPack>
struct RowUnits {
  static_assert(kPack == 1 || kPack == Pack<N>::kCount);
  __device__ static void load(const N* p, float (&v)[kPack]) {
    if constexpr (kPack == 1) {
      v[0] = to_float(*p);
    } else {
      const Pack<N> pack = load_pack(p);
#pragma unroll
      for (int i = 0; i < kPack; ++i) v[i] = to_float(pack.v[i]);
    }
  }
  __device__ static void store(N* p, const float (&v)[kPack]) {
    if constexpr (kPack == 1) {
      *p = N(v[0]);
    } else {
      Pack<N> pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.v[i] = N(v[i]);
      store_pack(p, pack);
    }
  }
};

template <class U>
__global__ void gather_kernel(const U* x, const int32_t* index, int64_t rows, int units, U* out) {
  wait_for_kernel_before();
  let_next_come();
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < rows * units;
       i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / units;
    const int32_t from = index[row];
    if (from >= 0) out[i] = x[from * int64_t(units) + (i - row * units)];
  }
}

template <class T>
void gather_rows(Queue& queue, View<const T, 2> x, View<const int32_t, 1> index, View<T, 2> out) {
  const int64_t rows = out.dim(0), bytes = out.dim(1) * int64_t(sizeof(T));
  if (rows == 0 || bytes == 0) return;
  const cudaStream_t stream = stream_of(queue);
  if (packs(bytes, 16, {x.data(), out.data()})) {
    launch_behind(stream, gather_kernel<uint4>, blocks_for(rows * (bytes / 16), kThreads * 4), kThreads,
                  reinterpret_cast<const uint4*>(x.data()), index.data(), rows, int(bytes / 16),
                  reinterpret_cast<uint4*>(out.data()));
  } else {
    launch_behind(stream, gather_kernel<native_t<T>>, blocks_for(rows * out.dim(1), kThreads), kThreads,
                  native(x.data()), index.data(), rows, int(out.dim(1)), native(out.data()));
  }
}

template <class N, int kPack>
__global__ void combine_kernel(const N* rows, const int32_t* offsets, const int32_t* index,
                               const float* weight, bool accumulate, const N* plus, int64_t count, int width,
                               N* out) {
  using Units = RowUnits<N, kPack>;
  const int units = width / kPack;
  wait_for_kernel_before();
  let_next_come();
  for (int64_t n = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; n < count * units;
       n += int64_t(gridDim.x) * blockDim.x) {
    const int64_t i = n / units, column = (n - i * units) * kPack;
    float sum[kPack] = {}, v[kPack];
    if (accumulate) Units::load(out + i * width + column, sum);
    const int end = offsets[i + 1];
#pragma unroll 4
    for (int j = offsets[i]; j < end; ++j) {
      const int64_t row = index[j];
      const float w = weight ? weight[row] : 1.f;
      Units::load(rows + row * width + column, v);
#pragma unroll
      for (int c = 0; c < kPack; ++c) sum[c] += w * v[c];
    }
    if (plus != nullptr) {
      Units::load(plus + i * width + column, v);
#pragma unroll
      for (int c = 0; c < kPack; ++c) sum[c] = to_float(N(sum[c])) + v[c];
    }
    Units::store(out + i * width + column, sum);
  }
}

template <class T>
void combine_rows_onto(Queue& queue, View<const T, 2> rows, View<const int32_t, 1> offsets,
                       View<const int32_t, 1> index, View<const float, 1> weight, bool accumulate,
                       View<const T, 2> plus, View<T, 2> out) {
  using N = native_t<T>;
  const int64_t count = out.dim(0), width = out.dim(1);
  if (count == 0 || width == 0) return;
  constexpr int kPack = Pack<N>::kCount;
  const cudaStream_t stream = stream_of(queue);
  const auto run = [&](auto kernel, int64_t per_thread) {
    launch_behind(stream, kernel, blocks_for(count * width, kThreads * per_thread), kThreads,
                  native(rows.data()), offsets.data(), index.data(), weight.data(), accumulate,
                  native(plus.data()), count, int(width), native(out.data()));
  };
  if (packs(width, kPack, {rows.data(), plus.data(), out.data()})) {
    run(combine_kernel<N, kPack>, kPack);
  } else {
    run(combine_kernel<N, 1>, 1);
  }
}

template <class T>
void combine_rows(Queue& queue, View<const T, 2> rows, View<const int32_t, 1> offsets,
                  View<const int32_t, 1> index, View<const float, 1> weight, bool accumulate,
                  View<T, 2> out) {
  combine_rows_onto<T>(queue, rows, offsets, index, weight, accumulate, {}, out);
}

// ---- Slots of each row ----

__global__ void count_rows(const int32_t* slot_row, int64_t slots, int32_t* counts) {
  for (int64_t a = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; a < slots;
       a += int64_t(gridDim.x) * blockDim.x)
    if (slot_row[a] >= 0) atomicAdd(&counts[slot_row[a]], 1);
}

constexpr int kScanThreads = 1024;

// One block: offsets[i] = sum of counts[0 .. i), and the counts become the same.
__global__ void scan_rows(int32_t* counts, int64_t rows, int32_t* offsets) {
  constexpr int kEach = 4;
  __shared__ int32_t sums[kScanThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t before = 0;
  for (int64_t begin = 0; begin < rows; begin += kScanThreads * kEach) {
    const int64_t first = begin + threadIdx.x * kEach;
    int32_t v[kEach], own = 0;
    for (int i = 0; i < kEach; ++i) own += v[i] = first + i < rows ? counts[first + i] : 0;
    int32_t prefix = own;
    for (int step = 1; step < 32; step *= 2) {
      const int32_t left = __shfl_up_sync(~0u, prefix, step);
      if (lane >= step) prefix += left;
    }
    __syncthreads();  // the sums of the turn before were read
    if (lane == 31) sums[warp] = prefix;
    __syncthreads();
    int32_t at = before + prefix - own;
    for (int w = 0; w < kScanThreads / 32; ++w) {
      if (w < warp) at += sums[w];
      before += sums[w];
    }
    for (int i = 0; i < kEach && first + i < rows; ++i) {
      offsets[first + i] = counts[first + i] = at;
      at += v[i];
    }
  }
  if (threadIdx.x == 0) offsets[rows] = before;
}

__global__ void place_rows(const int32_t* slot_row, int64_t slots, int32_t* cursors, int32_t* row_slots) {
  for (int64_t a = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; a < slots;
       a += int64_t(gridDim.x) * blockDim.x)
    if (slot_row[a] >= 0) row_slots[atomicAdd(&cursors[slot_row[a]], 1)] = int32_t(a);
}

// The slots of a row came in any order and are few: sorting them makes the list the same in every run.
__global__ void sort_rows(const int32_t* offsets, int64_t rows, int32_t* row_slots) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= rows) return;
  int32_t* own = row_slots + offsets[i];
  const int n = offsets[i + 1] - offsets[i];
  for (int j = 1; j < n; ++j) {
    const int32_t v = own[j];
    int to = j;
    for (; to > 0 && own[to - 1] > v; --to) own[to] = own[to - 1];
    own[to] = v;
  }
}

void slots_by_row(Queue& queue, View<const int32_t, 1> slot_row, View<int32_t, 1> row_offsets,
                  View<int32_t, 1> row_slots) {
  const int64_t rows = row_offsets.dim(0) - 1, slots = slot_row.dim(0);
  const cudaStream_t stream = stream_of(queue);
  if (slots_by_row_of_few(stream, slot_row.data(), slots, rows, row_offsets.data(), row_slots.data())) return;
  auto* counts = reinterpret_cast<int32_t*>(scratch_of(queue, size_t(rows + 1) * sizeof(int32_t)));
  check(cudaMemsetAsync(counts, 0, size_t(rows + 1) * sizeof(int32_t), stream));
  launch(stream, count_rows, blocks_for(slots, kThreads), kThreads, slot_row.data(), slots, counts);
  launch(stream, scan_rows, 1, kScanThreads, counts, rows, row_offsets.data());
  launch(stream, place_rows, blocks_for(slots, kThreads), kThreads, slot_row.data(), slots, counts,
         row_slots.data());
  launch(stream, sort_rows, blocks_for(rows, kThreads), kThreads, row_offsets.data(), rows, row_slots.data());
}

}  // namespace

template <class T>
void add_row_entries(MoeKernels<T>& table) {
  table.gather_rows = gather_rows<T>;
  table.combine_rows = combine_rows<T>;
  table.combine_rows_onto = combine_rows_onto<T>;
  table.slots_by_row = slots_by_row;
}
template void add_row_entries(MoeKernels<float>&);
template void add_row_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
