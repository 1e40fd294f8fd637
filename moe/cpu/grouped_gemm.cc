// Grouped GEMMs, and the activation between them, on the CPU. In a GEMM every expert's product is cut into
// pieces of whole rows of its output, and threads take pieces one by one. A piece is one single-threaded
// GEMM, so the result does not depend on who ran it.
#include <algorithm>
#include <cassert>

#include "moe/cpu/entries.h"
#include "parallel/device/cpu/simd.h"
#include "parallel/device/kernels.h"

namespace cadre::moe {
namespace {

using device::cpu;
using device::CpuQueue;
using device::Queue;
using device::View;
using device::wide_t;

// The queue of the GEMM inside a piece: the thread itself.
Queue& serial() {
  thread_local CpuQueue queue(1);
  return queue;
}

// Rows of a piece: about 8 pieces a thread keep threads evenly busy; below 64 rows a GEMM loses speed, above
// 512 it gains none (OpenBLAS packs the weights once a piece).
int64_t piece_rows(Queue& queue, int64_t total_rows) {
  return std::clamp<int64_t>(total_rows / (8 * cpu(queue).num_threads()), 64, 512);
}

// Runs body(expert, begin, count) for pieces of at most `step` rows; rows(e) is the number of rows of expert
// e. Pieces are numbered so that task i finds its own by walking over the experts: no list is kept.
template <class Rows, class Body>
void for_pieces(Queue& queue, int64_t experts, int64_t step, const Rows& rows, const Body& body) {
  int64_t tasks = 0;
  for (int64_t e = 0; e < experts; ++e) tasks += (rows(e) + step - 1) / step;
  cpu(queue).parallel_tasks(tasks, [&](int64_t task) {
    int64_t e = 0;
    for (int64_t n; task >= (n = (rows(e) + step - 1) / step); ++e) task -= n;
    const int64_t begin = task * step;
    body(e, begin, std::min(step, rows(e) - begin));
  });
}

template <class T>
void grouped_gemm(Queue& queue, View<const T, 2> a, View<const T, 3> w, View<const int64_t, 1> offsets,
                  View<T, 2> y) {
  auto rows = [&](int64_t e) { return offsets[e + 1] - offsets[e]; };
  for_pieces(queue, w.dim(0), piece_rows(queue, a.dim(0)), rows,
             [&](int64_t e, int64_t begin, int64_t count) {
               const int64_t first = offsets[e] + begin;
               device::cpu_kernels<T>().gemm(serial(), a.rows(first, count), w[e], y.rows(first, count),
                                             {.transpose_b = true});
             });
}

template <class T>
void grouped_dgrad(Queue& queue, View<const T, 2> b, View<const T, 3> w, View<const int64_t, 1> offsets,
                   bool accumulate, View<T, 2> da) {
  auto rows = [&](int64_t e) { return offsets[e + 1] - offsets[e]; };
  for_pieces(queue, w.dim(0), piece_rows(queue, b.dim(0)), rows,
             [&](int64_t e, int64_t begin, int64_t count) {
               const int64_t first = offsets[e] + begin;
               device::cpu_kernels<T>().gemm(serial(), b.rows(first, count), w[e], da.rows(first, count),
                                             {.beta = accumulate ? 1.0 : 0.0});
             });
}

template <class T>
void grouped_wgrad(Queue& queue, View<const T, 2> b, View<const T, 2> a, View<const int64_t, 1> offsets,
                   bool accumulate, View<T, 3> dw) {
  auto product = [&](Queue& inner, int64_t e) {
    const int64_t first = offsets[e], count = offsets[e + 1] - first;
    if (count == 0) {
      if (!accumulate) std::fill(dw[e].begin(), dw[e].end(), T(0));
      return;
    }
    device::cpu_kernels<T>().gemm(inner, b.rows(first, count), a.rows(first, count), dw[e],
                                  {.transpose_a = true, .beta = accumulate ? 1.0 : 0.0});
  };
  // The contraction runs over an expert's rows and its output is one matrix. Many experts: one each thread at
  // a time. Few: the threads share the GEMM of one, which stays even when one expert has most rows.
  if (dw.dim(0) >= 4 * cpu(queue).num_threads()) {
    cpu(queue).parallel_tasks(dw.dim(0), [&](int64_t e) { product(serial(), e); });
  } else {
    for (int64_t e = 0; e < dw.dim(0); ++e) product(queue, e);
  }
}

// The second half of grouped_swiglu_backward; out is dL/d(weight * a) on entry. silu(x) = x s and
// silu'(x) = s (1 + x (1 - s)) with s = sigmoid(x).
template <class T>
void swiglu_gate_backward(Queue& queue, View<const wide_t<T>, 1> weight, View<T, 2> gate, View<T, 2> up,
                          View<T, 2> out, View<wide_t<T>, 1> dweight) {
  using W = wide_t<T>;
  const int64_t width = gate.dim(1);
  cpu(queue).parallel_for(gate.dim(0), device::row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* __restrict g = gate.data() + i * width;
      T* __restrict u = up.data() + i * width;
      T* __restrict o = out.data() + i * width;
      const T w = T(weight[i]);
      W sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t h = 0; h < width; ++h) {
        const T x = g[h], v = u[h], s = device::sigmoid_of(x), act = x * s * v, d = w * o[h];
        sum += W(o[h]) * W(act);
        u[h] = d * x * s;
        g[h] = d * v * s * (T(1) + x * (T(1) - s));
        o[h] = w * act;
      }
      dweight[i] = sum;
    }
  });
}

template <class T>
void grouped_swiglu(Queue& queue, View<const T, 2> x, View<const T, 3> w_gate, View<const T, 3> w_up,
                    View<const int64_t, 1> offsets, View<T, 2> gate, View<T, 2> up, View<T, 2> act) {
  grouped_gemm(queue, x, w_gate, offsets, gate);
  grouped_gemm(queue, x, w_up, offsets, up);
  device::cpu_kernels<T>().swiglu(queue, gate, up, act);
}

template <class T>
void grouped_swiglu_backward(Queue& queue, View<const T, 2> dy, View<const T, 3> w_down,
                             View<const int64_t, 1> offsets, View<const wide_t<T>, 1> weight, View<T, 2> gate,
                             View<T, 2> up, View<T, 2> out, View<wide_t<T>, 1> dweight) {
  grouped_dgrad(queue, dy, w_down, offsets, false, out);
  swiglu_gate_backward(queue, weight, gate, up, out, dweight);
}

template <class T>
void grouped_dgrad_pair(Queue& queue, View<const T, 2> b0, View<const T, 3> w0, View<const T, 2> b1,
                        View<const T, 3> w1, View<const int64_t, 1> offsets, View<T, 2> dx) {
  grouped_dgrad(queue, b0, w0, offsets, false, dx);
  grouped_dgrad(queue, b1, w1, offsets, true, dx);
}

}  // namespace

template <class T>
void add_expert_entries(MoeKernels<T>& table) {
  table.grouped_gemm = grouped_gemm<T>;
  table.grouped_dgrad = grouped_dgrad<T>;
  table.grouped_wgrad = grouped_wgrad<T>;
  table.grouped_swiglu = grouped_swiglu<T>;
  table.grouped_swiglu_backward = grouped_swiglu_backward<T>;
  table.grouped_dgrad_pair = grouped_dgrad_pair<T>;
}
template void add_expert_entries(MoeKernels<float>&);
template void add_expert_entries(MoeKernels<double>&);

}  // namespace cadre::moe
