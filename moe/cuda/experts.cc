// The experts' entries on CUDA: which way of computing a product runs, and what the fused forms are made of
// where they are not one kernel.
#include <array>

#include "moe/cuda/entries.h"
#include "moe/cuda/grouped_hopper.h"
#include "moe/cuda/launch.h"
#include "moe/cuda/swiglu.h"

namespace cadre::moe::cuda {
namespace {

using device::bf16;
using device::Queue;
using device::View;

template <class T>
struct Experts {
  using Rows = View<T, 2>;
  using ConstRows = View<const T, 2>;
  using Weights = View<const T, 3>;
  static constexpr bool kTensorCores = std::is_same_v<T, bf16>;
  // An epilogue of SwiGLU's way back with weights takes a tile as long as a contraction of 700 or so, for which the
  // tensor cores mostly wait; up to here a pass of its own is shorter.
  static constexpr int64_t kShortContraction = 1024;

  // Products whose operands all have rows and bases of whole units may run on the tensor cores.
  static const GroupedProducts<T>& products(std::initializer_list<const void*> bases,
                                            std::initializer_list<int64_t> widths) {
    if constexpr (kTensorCores) {
      if (in_units(bases, widths)) return fast() ? hopper_products() : ampere_products();
    }
    return simple_products<T>();
  }
  static bool fast() { return kTensorCores && has_wgmma(); }

  static void gemm_between(Queue& queue, ConstRows a, Weights w, Offsets begins, Offsets ends, Rows y) {
    if (a.dim(0) == 0) return;
    products({a.data(), w.data(), y.data()}, {a.dim(1), y.dim(1)})
        .gemm(stream_of(queue), a, w, begins, ends, y);
  }
  static void gemm(Queue& queue, ConstRows a, Weights w, Offsets offsets, Rows y) {
    gemm_between(queue, a, w, offsets.rows(0, w.dim(0)), offsets.rows(1, w.dim(0)), y);
  }
  static void dgrad(Queue& queue, ConstRows b, Weights w, Offsets offsets, bool accumulate, Rows da) {
    if (b.dim(0) == 0) return;
    products({b.data(), w.data(), da.data()}, {b.dim(1), da.dim(1)})
        .dgrad(stream_of(queue), b, w, offsets, accumulate, da);
  }
  static void wgrad(Queue& queue, ConstRows b, ConstRows a, Offsets offsets, bool accumulate, View<T, 3> dw) {
    if (b.dim(0) > 0) {
      products({b.data(), a.data(), dw.data()}, {b.dim(1), a.dim(1)})
          .wgrad(queue, b, a, offsets, accumulate, dw);
    } else if (!accumulate) {
      queue.zero(dw.data(), size_t(dw.size()) * sizeof(T));
    }
  }

  static void swiglu_forward(Queue& queue, ConstRows x, Weights w_gate, Weights w_up, Offsets offsets,
                             Rows gate, Rows up, Rows act) {
    if (x.dim(0) == 0) return;
    if constexpr (kTensorCores) {
      if (fast() && in_units({x.data(), w_gate.data(), w_up.data(), gate.data(), up.data(), act.data()},
                             {x.dim(1), gate.dim(1)}))
        return hopper_swiglu(stream_of(queue), x, w_gate, w_up, offsets, gate, up, act);
    }
    gemm(queue, x, w_gate, offsets, gate);
    gemm(queue, x, w_up, offsets, up);
    cuda::swiglu<T>(stream_of(queue), gate, up, act);
  }

  static void expect_swiglu(Queue& queue, int64_t rows, Weights w_gate, Weights w_up) {
    if constexpr (kTensorCores) {
      if (fast() && in_units({w_gate.data(), w_up.data()}, {w_gate.dim(2), w_gate.dim(1)}))
        hopper_expect_swiglu(stream_of(queue), rows, w_gate, w_up);
    }
  }

  static void swiglu_backward(Queue& queue, ConstRows dy, Weights w_down, Offsets offsets,
                              View<const float, 1> weight, Rows gate, Rows up, Rows out,
                              View<float, 1> dweight) {
    if (dy.dim(0) == 0) return;
    const cudaStream_t stream = stream_of(queue);
    if constexpr (kTensorCores) {
      if (fast() && dy.dim(1) > kShortContraction &&
          in_units({dy.data(), w_down.data(), gate.data(), up.data(), out.data()},
                   {dy.dim(1), gate.dim(1)})) {
        const int64_t parts = hopper_partials(gate.dim(1)), rows = dy.dim(0);
        auto* memory = reinterpret_cast<float*>(scratch_of(queue, size_t(parts * rows) * sizeof(float)));
        const View<float, 2> partial(memory, {parts, rows});
        hopper_swiglu_backward(stream, dy, w_down, offsets, weight, gate, up, out, partial);
        return add_partial_dots(stream, partial, dweight);
      }
    }
    dgrad(queue, dy, w_down, offsets, false, out);
    swiglu_gate_backward<T>(stream, offsets, weight, gate, up, out, dweight);
  }

  static void dgrad_pair(Queue& queue, ConstRows b0, Weights w0, ConstRows b1, Weights w1, Offsets offsets,
                         Rows dx) {
    if (dx.dim(0) == 0) return;
    if constexpr (kTensorCores) {
      if (fast() && in_units({b0.data(), w0.data(), b1.data(), w1.data(), dx.data()}, {b0.dim(1), dx.dim(1)}))
        return hopper_dgrad_sum(stream_of(queue), std::array{HopperTerm{b0, w0}, HopperTerm{b1, w1}}, offsets,
                                dx);
    }
    dgrad(queue, b0, w0, offsets, false, dx);
    dgrad(queue, b1, w1, offsets, true, dx);
  }
};

}  // namespace

bool in_units(std::initializer_list<const void*> bases, std::initializer_list<int64_t> widths) {
  return std::ranges::all_of(bases, [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }) &&
         std::ranges::all_of(widths, [](int64_t n) { return n > 0 && n % 8 == 0; });
}

bool has_wgmma() {
  return compute_capability() == 90;
}

template <class T>
void add_expert_entries(MoeKernels<T>& table) {
  using E = Experts<T>;
  if (E::kTensorCores) table.let_others_run = let_others_run;
  table.grouped_gemm = E::gemm;
  table.grouped_gemm_between = E::gemm_between;
  table.grouped_dgrad = E::dgrad;
  table.grouped_wgrad = E::wgrad;
  table.grouped_swiglu = E::swiglu_forward;
  table.expect_swiglu = E::kTensorCores ? E::expect_swiglu : nullptr;
  table.grouped_swiglu_backward = E::swiglu_backward;
  table.grouped_dgrad_pair = E::dgrad_pair;
}
template void add_expert_entries(MoeKernels<float>&);
template void add_expert_entries(MoeKernels<bf16>&);

}  // namespace cadre::moe::cuda
