#include "parallel/device/cuda/flash_hopper.h"

#include <algorithm>

#include "parallel/device/cuda/flash_hopper_launch.h"
#include "parallel/device/cuda/multiprocessors.h"
#include "parallel/device/cuda/tensor_map.h"

namespace cadre::device::cuda {
namespace hopper {
namespace {

constexpr int kCounters = 4, kPadding = 128;
constexpr int64_t kL2Bytes = int64_t(24) << 20;  // of a section of heads: about half of the cache

// Counters to 0, and the bounds of each token's document.
__global__ void prepare_kernel(int64_t tokens, int length, const int32_t* __restrict__ segment,
                               int32_t* __restrict__ counters, Document* __restrict__ documents) {
  const int64_t token = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (token < kCounters) counters[token] = 0;
  if (segment == nullptr || token >= tokens) return;
  const int at = int(token % length);
  documents[token] = document_of(segment + (token - at), length, at);
}

// What the backward passes want of log-sum-exp and delta, the sum over the head of dout * out, of which every lane of a token
// and head knows both and writes a part. Past the end of a sequence every weight is to be 0.
struct WriteStats {
  float2* stats;
  __device__ void operator()(int lane, int64_t row, int padded, int at, bool live, float lse, float delta,
                             float) const {
    if (lane == 0) stats[row * padded + at] = {live ? lse * kLog2E : INFINITY, delta};
  }
};
// Of heads of 64: a warp has four tokens in a row, whose terms one lane writes together.
struct WriteBias {
  __nv_bfloat16* bias;
  __device__ void operator()(int lane, int64_t row, int padded, int at, bool live, float lse, float delta,
                             float scale) const {
    const int term = lane % kBiasTerms, first = at / 4 * 4, column = first % 64;
    // Finite, since other rows of ones and zeros are multiplied by it as well.
    float left = lane >= kBiasTerms ? -delta : live ? -lse / scale : -1e30f;
    for (int i = 0; i < term; ++i) left -= __bfloat162float(__float2bfloat16_rn(left));
    float of_token[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) of_token[i] = __shfl_sync(~0u, left, i * 8 + lane);
    if (threadIdx.x % 32 >= 2 * kBiasTerms) return;
    __nv_bfloat16* const to = bias + ((row * (padded / 64) + at / 64) * (2 * kBiasTerms) + lane) * 64;
    *reinterpret_cast<uint2*>(to + (column / 8 ^ term) * 8 + column % 8) = {pack(of_token[0], of_token[1]),
                                                                            pack(of_token[2], of_token[3])};
  }
};

// kHead / 8 lanes a token and head, of which a GPU has not room for 2^31.
template <int kHead, class Write>
__global__ void __launch_bounds__(256)
    stats_kernel(uint32_t count, int heads, int length, int padded, float scale,
                 const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ out,
                 const float* __restrict__ lse, Write write) {
  constexpr int kLanes = kHead / 8, kItems = 256 / kLanes;
  const uint32_t item = blockIdx.x * kItems + threadIdx.x / kLanes;  // (sequence, head, padded)
  const uint32_t pair = item / uint32_t(padded), sequence = pair / uint32_t(heads);
  const int lane = threadIdx.x % kLanes, at = int(item - pair * uint32_t(padded)),
            head = int(pair - sequence * uint32_t(heads));
  const int64_t row = (int64_t(sequence) * length + at) * heads + head;
  const bool live = item < count && at < length;
  float sum = 0;
  if (live) {
    float a[8], b[8];
    load<8>(dout + row * kHead + lane * 8, a);
    load<8>(out + row * kHead + lane * 8, b);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
  }
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  if (item < count) write(lane, pair, padded, at, live, live ? lse[row] : 0.f, sum, scale);
}

int64_t aligned(int64_t bytes) {
  return ceil_div(bytes, 256) * 256;
}
int padded_length(const AttentionShape& s) {
  return int(ceil_div(s.seq_len, kPadding) * kPadding);
}

// What lies in the scratch memory.
struct Prepared {
  int32_t* counters;
  Document* documents;  // null without segments
  float2* stats;
};
Prepared prepare(Queue& queue, const AttentionShape& s, View<const int32_t, 1> segment, void* scratch) {
  auto* base = static_cast<std::byte*>(scratch);
  const int64_t tokens = s.num_sequences * s.seq_len;
  Prepared all{reinterpret_cast<int32_t*>(base), reinterpret_cast<Document*>(base + 256),
               reinterpret_cast<float2*>(base + 256 + aligned(tokens * 8))};
  if (segment.empty()) all.documents = nullptr;
  prepare_kernel<<<unsigned(segment.empty() ? 1 : ceil_div(tokens, 128)), 128, 0, stream(queue)>>>(
      tokens, int(s.seq_len), segment.empty() ? nullptr : segment.data(), all.counters, all.documents);
  launched();
  return all;
}

CUtensorMap head_map(const AttentionShape& s, View<const bf16, 3> v, int box_rows) {
  return tensor_map(v.data(), s.num_sequences, s.seq_len, v.dim(1) * v.dim(2), box_rows);
}

Params params(const AttentionShape& s, const Prepared& prepared, bool keys_kept, int counter) {
  Params p{};
  p.length = int(s.seq_len);
  p.heads = int(s.num_heads);
  p.kv_heads = int(s.num_kv_heads);
  // Both tensors of a head that passes by; heads of one group share theirs, or, for dk and dv, all pass by.
  const int64_t bytes = 2 * s.seq_len * s.head_dim * 2, group = p.heads / p.kv_heads;
  const int64_t fit = std::max<int64_t>(kL2Bytes / bytes, 1);
  p.items = {p.length, int(s.num_sequences) * (keys_kept ? p.kv_heads : p.heads),
             int(std::max<int64_t>(keys_kept ? fit / group : fit * group, 1))};
  p.scale = float(1 / std::sqrt(double(s.head_dim)));
  p.documents = prepared.documents;
  p.stats = prepared.stats;
  p.padded = padded_length(s);
  p.next = prepared.counters + counter;
  return p;
}

// Of flash_hopper_backward.cu: a block makes whole heads of keys, so that of few heads some blocks have none, or stand at the
// end. The shares of the blocks' turns with work from which it is the faster one, from what it takes at a share of 0.97 on
// an H200: 0.43 of two kernels' time in documents of 512 tokens, 0.66 (1024 tokens) to 0.76 (2048) of cuDNN's.
constexpr double kShareForTwoKernels = 0.5, kShareForCudnn = 0.75;
constexpr int64_t kMostSums = int64_t(2) << 30;     // bytes
constexpr int64_t kBiasBytes = 2 * kBiasTerms * 2;  // of a token and head
int64_t pairs_of(const AttentionShape& s) {
  return s.num_sequences * s.num_kv_heads;
}
int64_t blocks_of(const AttentionShape& s) {
  return std::min<int64_t>(pairs_of(s), multiprocessors());
}
int64_t bytes_of_sums(const AttentionShape& s) {
  return blocks_of(s) * (s.num_heads / s.num_kv_heads) * padded_length(s) * s.head_dim * 4;
}
double share_of_turns(const AttentionShape& s) {
  const int64_t turns = ceil_div(pairs_of(s), multiprocessors());
  return double(pairs_of(s)) / double(turns * multiprocessors());
}
bool in_one_kernel(const AttentionShape& s) {
  return s.head_dim == 64 && share_of_turns(s) >= kShareForTwoKernels && bytes_of_sums(s) <= kMostSums;
}

}  // namespace
}  // namespace hopper

bool hopper_backward_beats_cudnn(const AttentionShape& s) {
  return hopper_attention_supports(s) && hopper::in_one_kernel(s) &&
         hopper::share_of_turns(s) >= hopper::kShareForCudnn;
}

bool hopper_attention_supports(const AttentionShape& s) {
  return s.num_past == 0 && (s.head_dim == 64 || s.head_dim == 128);
}

size_t hopper_attention_bytes(const AttentionShape& s, bool backward) {
  const int64_t rows = s.num_sequences * hopper::padded_length(s) * s.num_heads;
  return size_t(256 + hopper::aligned(s.num_sequences * s.seq_len * 8) +
                (!backward ? 0
                 : hopper::in_one_kernel(s)
                     ? hopper::aligned(rows * hopper::kBiasBytes) + hopper::bytes_of_sums(s)
                     : hopper::aligned(rows * 8)));
}

void hopper_attention(Queue& queue, const AttentionShape& s, View<const bf16, 3> q, View<const bf16, 3> k,
                      View<const bf16, 3> v, View<const int32_t, 1> segment, View<bf16, 3> out,
                      View<float, 2> lse, void* scratch) {
  hopper::Params p = hopper::params(s, hopper::prepare(queue, s, segment, scratch), false, 0);
  p.own[0] = hopper::head_map(s, q, 128);
  p.other[0] = hopper::head_map(s, k, 128);
  p.other[1] = hopper::head_map(s, v, 128);
  p.lse = lse.data();
  p.out[0] = raw(out);
  s.head_dim == 64 ? hopper::launch_forward<64>(p, stream(queue))
                   : hopper::launch_forward<128>(p, stream(queue));
}

void hopper_attention_backward(Queue& queue, const AttentionShape& s, View<const bf16, 3> dout,
                               View<const bf16, 3> q, View<const bf16, 3> k, View<const bf16, 3> v,
                               View<const int32_t, 1> segment, View<const bf16, 3> out,
                               View<const float, 2> lse, View<bf16, 3> dq, View<bf16, 3> dk, View<bf16, 3> dv,
                               void* scratch) {
  const hopper::Prepared prepared = hopper::prepare(queue, s, segment, scratch);
  const int padded = hopper::padded_length(s);
  const int64_t items = s.num_sequences * padded * s.num_heads;
  const bool in_one = hopper::in_one_kernel(s);
  auto* const bias = reinterpret_cast<__nv_bfloat16*>(prepared.stats);
  const auto make_stats = [&](auto kernel, const auto& write) {
    kernel<<<unsigned(ceil_div(items, 256 / (s.head_dim / 8))), 256, 0, stream(queue)>>>(
        uint32_t(items), int(s.num_heads), int(s.seq_len), padded, float(1 / std::sqrt(double(s.head_dim))),
        raw(dout), raw(out), lse.data(), write);
    launched();
  };
  if (in_one) {
    make_stats(hopper::stats_kernel<64, hopper::WriteBias>, hopper::WriteBias{bias});
  } else if (s.head_dim == 64) {
    make_stats(hopper::stats_kernel<64, hopper::WriteStats>, hopper::WriteStats{prepared.stats});
  } else {
    make_stats(hopper::stats_kernel<128, hopper::WriteStats>, hopper::WriteStats{prepared.stats});
  }

  hopper::Params p = hopper::params(s, prepared, true, 0);
  p.own[0] = hopper::head_map(s, k, 128);
  p.own[1] = hopper::head_map(s, v, 128);
  p.other[0] = hopper::head_map(s, q, 64);
  p.other[1] = hopper::head_map(s, dout, 64);
  p.out[0] = raw(dk);
  p.out[1] = raw(dv);
  if (in_one) {
    p.out[2] = raw(dq);
    p.bias = bias;
    p.sums = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(bias) +
                                      hopper::aligned(items * hopper::kBiasBytes));
    hopper::launch_backward(p, int(hopper::blocks_of(s)), stream(queue));
    return;
  }
  s.head_dim == 64 ? hopper::launch_dkv<64>(p, stream(queue)) : hopper::launch_dkv<128>(p, stream(queue));

  p = hopper::params(s, prepared, false, 1);
  p.own[0] = hopper::head_map(s, q, 128);
  p.own[1] = hopper::head_map(s, dout, 128);
  p.other[0] = hopper::head_map(s, k, 64);
  p.other[1] = hopper::head_map(s, v, 64);
  p.out[0] = raw(dq);
  s.head_dim == 64 ? hopper::launch_dq<64>(p, stream(queue)) : hopper::launch_dq<128>(p, stream(queue));
}

}  // namespace cadre::device::cuda
