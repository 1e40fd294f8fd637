// Sums of the parts that came from the ranks of a group.
#include <cuda_bf16.h>

#include <algorithm>

#include "parallel/comm/nccl/sum_parts.h"
#include "parallel/device/cuda/check.h"

namespace cadre::comm::nccl {
namespace {

constexpr int kThreads = 256;

template <class T>
struct SumIn {
  using type = T;
};
template <>
struct SumIn<__nv_bfloat16> {
  using type = float;
};

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T v[kCount];
};

// A pack of elements a thread and turn. count and stride are in packs.
template <class T, int kCount>
__global__ void sum_kernel(const Pack<T, kCount>* own, const Pack<T, kCount>* staged, int64_t stride,
                           int rank, int ranks, int64_t count, Pack<T, kCount>* out) {
  using Sum = typename SumIn<T>::type;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * blockDim.x) {
    Sum sum[kCount] = {};
    for (int r = 0; r < ranks; ++r) {
      const Pack<T, kCount> part = r == rank ? own[i] : staged[(r < rank ? r : r - 1) * stride + i];
#pragma unroll
      for (int c = 0; c < kCount; ++c) sum[c] = r == 0 ? Sum(part.v[c]) : sum[c] + Sum(part.v[c]);
    }
    Pack<T, kCount> result;
#pragma unroll
    for (int c = 0; c < kCount; ++c) result.v[c] = T(sum[c]);
    out[i] = result;
  }
}

template <class T, int kCount>
void launch(cudaStream_t stream, const Parts& p) {
  using P = Pack<T, kCount>;
  const int64_t count = p.count / kCount;
  const unsigned blocks = unsigned(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, 1024));
  sum_kernel<T, kCount><<<blocks, kThreads, 0, stream>>>(static_cast<const P*>(p.own),
                                                         static_cast<const P*>(p.staged), p.stride / kCount,
                                                         p.rank, p.ranks, count, static_cast<P*>(p.out));
  device::cuda::check(cudaGetLastError());
}

template <class T>
void sum(cudaStream_t stream, const Parts& p) {
  constexpr int kCount = 16 / sizeof(T);
  if (p.count == 0) return;
  const auto whole = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
  if (!whole(p.own) || !whole(p.staged) || !whole(p.out) || p.stride % kCount != 0)
    return launch<T, 1>(stream, p);
  Parts rest = p;
  const int64_t packed = p.count / kCount * kCount;
  if (packed > 0) launch<T, kCount>(stream, p);
  rest.count = p.count - packed;
  if (rest.count == 0) return;
  rest.own = static_cast<const T*>(p.own) + packed;
  rest.staged = static_cast<const T*>(p.staged) + packed;
  rest.out = static_cast<T*>(p.out) + packed;
  launch<T, 1>(stream, rest);
}

}  // namespace

void sum_bf16(cudaStream_t stream, const Parts& parts) {
  sum<__nv_bfloat16>(stream, parts);
}
void sum_float(cudaStream_t stream, const Parts& parts) {
  sum<float>(stream, parts);
}
void sum_double(cudaStream_t stream, const Parts& parts) {
  sum<double>(stream, parts);
}
void sum_int32(cudaStream_t stream, const Parts& parts) {
  sum<int32_t>(stream, parts);
}
void sum_int64(cudaStream_t stream, const Parts& parts) {
  sum<int64_t>(stream, parts);
}

}  // namespace cadre::comm::nccl
