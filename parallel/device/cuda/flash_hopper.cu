#include "parallel/device/cuda/flash_hopper.h"

#include <algorithm>

#include "parallel/device/cuda/flash_hopper_launch.h"
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

// A warp a token and head: {lse in powers of two, sum over the head of dout * out}. Past the end of a sequence an
// infinite log-sum-exp makes every weight 0.
template <int kHead>
__global__ void __launch_bounds__(256)
    stats_kernel(int64_t count, int heads, int length, int padded, const __nv_bfloat16* __restrict__ dout,
                 const __nv_bfloat16* __restrict__ out, const float* __restrict__ lse,
                 float2* __restrict__ stats) {
  const int64_t item = int64_t(blockIdx.x) * 8 + threadIdx.x / 32;  // (sequence, padded, head)
  if (item >= count) return;
  const int lane = threadIdx.x % 32, head = int(item % heads), at = int(item / heads % padded);
  const int64_t sequence = item / heads / padded;
  float2* to = stats + (sequence * heads + head) * padded + at;
  if (at >= length) {
    if (lane == 0) *to = {INFINITY, 0};
    return;
  }
  const int64_t row = (sequence * length + at) * heads + head;
  constexpr int kPairs = kHead / 64;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int64_t pair = row * (kHead / 2) + lane * kPairs + i;
    const float2 a = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(dout)[pair]);
    const float2 b = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(out)[pair]);
    sum = fmaf(a.x, b.x, fmaf(a.y, b.y, sum));
  }
  sum = warp_sum(sum);
  if (lane == 0) *to = {lse[row] * kLog2E, sum};
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

}  // namespace
}  // namespace hopper

bool hopper_attention_supports(const AttentionShape& s) {
  return s.num_past == 0 && (s.head_dim == 64 || s.head_dim == 128);
}

size_t hopper_attention_bytes(const AttentionShape& s, bool backward) {
  const int64_t rows = s.num_sequences * hopper::padded_length(s) * s.num_heads;
  return size_t(256 + hopper::aligned(s.num_sequences * s.seq_len * 8) +
                (backward ? hopper::aligned(rows * 8) : 0));
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
  const auto stats = s.head_dim == 64 ? hopper::stats_kernel<64> : hopper::stats_kernel<128>;
  stats<<<unsigned(ceil_div(items, 8)), 256, 0, stream(queue)>>>(
      items, int(s.num_heads), int(s.seq_len), padded, raw(dout), raw(out), lse.data(), prepared.stats);
  launched();

  hopper::Params p = hopper::params(s, prepared, true, 0);
  p.own[0] = hopper::head_map(s, k, 128);
  p.own[1] = hopper::head_map(s, v, 128);
  p.other[0] = hopper::head_map(s, q, 64);
  p.other[1] = hopper::head_map(s, dout, 64);
  p.out[0] = raw(dk);
  p.out[1] = raw(dv);
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
