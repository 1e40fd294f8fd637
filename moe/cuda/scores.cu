// Router maths on CUDA: scores, gates and their gradients, a warp for each token. Formulas as in
// moe/cpu/scores.cc.
#include <cfloat>

#include "moe/cuda/entries.h"
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

constexpr int kWarps = 8;

__device__ inline int64_t token_of_warp() {
  return int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
}

struct Rows {  // (T, E) matrices
  float *logits, *scores, *probs, *gates, *lse;
  int64_t tokens;
  int experts;
};
template <class T>
Rows rows_of(const ScoreViews<T>& v) {
  return {v.logits.data(), v.scores.data(), v.probs.data(),      v.gates.data(),
          v.lse.data(),    v.logits.dim(0), int(v.logits.dim(1))};
}

__global__ void score_kernel(Rows r, bool sigmoid, const int32_t* segment) {
  const int64_t t = token_of_warp();
  const int lane = threadIdx.x % 32;
  wait_for_kernel_before();
  let_next_come();
  if (t >= r.tokens) return;
  const float* z = r.logits + t * r.experts;
  float *probs = r.probs + t * r.experts, *scores = r.scores + t * r.experts;
  if (segment[t] < 0) {
    for (int e = lane; e < r.experts; e += 32) probs[e] = scores[e] = 0;
    if (lane == 0) r.lse[t] = 0;
    return;
  }
  float top = -FLT_MAX, sum = 0, sigmoids = 0;
  for (int e = lane; e < r.experts; e += 32) top = fmaxf(top, z[e]);
  top = warp_max(top);
  for (int e = lane; e < r.experts; e += 32) sum += expf(z[e] - top);
  sum = warp_sum(sum);
  if (lane == 0) r.lse[t] = top + logf(sum);
  if (!sigmoid) {
    for (int e = lane; e < r.experts; e += 32) probs[e] = expf(z[e] - top) / sum;
    return;
  }
  for (int e = lane; e < r.experts; e += 32) sigmoids += scores[e] = 1 / (1 + expf(-z[e]));
  const float scale = 1 / fmaxf(warp_sum(sigmoids), FLT_MIN);
  for (int e = lane; e < r.experts; e += 32) probs[e] = scores[e] * scale;
}

template <class T>
void score(Queue& queue, ScoreRule rule, View<const int32_t, 1> segment, const ScoreViews<T>& v) {
  const Rows rows = rows_of(v);
  if (rows.tokens == 0) return;
  launch_behind(stream_of(queue), score_kernel, blocks_for(rows.tokens, kWarps), kWarps * 32, rows,
                rule.kind == ScoreRule::kSigmoid, segment.data());
}

__global__ void gates_kernel(Rows r, bool share, float scale, const int32_t* choice, int k) {
  const int64_t t = token_of_warp();
  const int lane = threadIdx.x % 32;
  wait_for_kernel_before();
  let_next_come();
  if (t >= r.tokens) return;
  const float* scores = r.scores + t * r.experts;
  float* gates = r.gates + t * r.experts;
  const int32_t* chosen = choice + t * k;
  for (int e = lane; e < r.experts; e += 32) gates[e] = 0;
  __syncwarp();
  if (chosen[0] < 0) return;
  float factor = scale;
  if (share) {
    float sum = kShareEpsilon;
    for (int j = 0; j < k; ++j) sum += scores[chosen[j]];
    factor /= sum;
  }
  for (int j = lane; j < k; j += 32) gates[chosen[j]] = factor * scores[chosen[j]];
}

template <class T>
void top_k_gates(Queue& queue, ScoreRule rule, View<const int32_t, 2> choice, const ScoreViews<T>& v) {
  const Rows rows = rows_of(v);
  if (rows.tokens == 0) return;
  launch_behind(stream_of(queue), gates_kernel, blocks_for(rows.tokens, kWarps), kWarps * 32, rows,
                rule.share, float(rule.scale), choice.data(), int(choice.dim(1)));
}

// dL/dg to its place in dlogits, which is 0 elsewhere.
__global__ void scatter_gate_gradients(const int64_t* offsets, int experts, const int32_t* slot_token,
                                       const float* dgate, float* dlogits) {
  const int64_t slots = offsets[experts];
  for (int64_t a = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; a < slots;
       a += int64_t(gridDim.x) * blockDim.x)
    dlogits[int64_t(slot_token[a]) * experts + group_of(offsets, experts, a)] = dgate[a];
}

struct BackwardRule {
  bool share, sigmoid;
  float scale;
  double z_scale;
};

__global__ void score_backward_kernel(Rows r, BackwardRule rule, const float* dprobs, float* dlogits) {
  const int64_t t = token_of_warp();
  const int lane = threadIdx.x % 32;
  if (t >= r.tokens) return;
  const int64_t row = t * r.experts;
  const float *gates = r.gates + row, *scores = r.scores + row, *probs = r.probs + row;
  float* dz = dlogits + row;
  // Sums of the two softmax-like Jacobians: of the gates, and of the balance loss.
  float dot = 0, balance = 0;
  for (int e = lane; e < r.experts; e += 32) {
    if (rule.share) dot += gates[e] * dz[e];
    if (!rule.share && !rule.sigmoid) dot += scores[e] * dz[e];
    if (dprobs) balance += probs[e] * dprobs[row + e];
  }
  dot = warp_sum(dot);
  balance = warp_sum(balance);
  if (rule.share) dot /= rule.scale;
  const float z_factor = float(2 * rule.z_scale) * r.lse[t];
  for (int e = lane; e < r.experts; e += 32) {
    const float fall = rule.sigmoid ? 1 - scores[e] : 1.f;
    float d;
    if (rule.share) {
      d = gates[e] * (dz[e] - dot) * fall;
    } else if (rule.sigmoid) {
      d = rule.scale * dz[e] * scores[e] * fall;
    } else {
      d = rule.scale * scores[e] * (dz[e] - dot);
    }
    if (dprobs) d += probs[e] * (dprobs[row + e] - balance) * fall;
    if (z_factor != 0) d += z_factor * expf(r.logits[row + e] - r.lse[t]);
    dz[e] = d;
  }
}

template <class T>
void score_backward(Queue& queue, ScoreRule rule, const Routing<T>& routing, const ScoreViews<T>& v,
                    const RoutingGrad<T>& grad, View<float, 2> dlogits) {
  const Rows rows = rows_of(v);
  if (rows.tokens == 0) return;
  const cudaStream_t stream = stream_of(queue);
  check(cudaMemsetAsync(dlogits.data(), 0, size_t(dlogits.size()) * sizeof(float), stream));
  launch(stream, scatter_gate_gradients, blocks_for(routing.num_slots, 256), 256,
         routing.expert_offsets.data(), rows.experts, routing.slot_token.data(), grad.slot_gate.data(),
         dlogits.data());
  const BackwardRule back{rule.share, rule.kind == ScoreRule::kSigmoid, float(rule.scale), grad.z_scale};
  launch(stream, score_backward_kernel, blocks_for(rows.tokens, kWarps), kWarps * 32, rows, back,
         grad.probs.empty() ? nullptr : grad.probs.data(), dlogits.data());
}

}  // namespace

template <class T>
void add_score_entries(MoeKernels<T>& table) {
  table.score = score<T>;
  table.top_k_gates = top_k_gates<T>;
  table.score_backward = score_backward<T>;
}
template void add_score_entries(MoeKernels<float>&);
template void add_score_entries(MoeKernels<device::bf16>&);

}  // namespace cadre::moe::cuda
