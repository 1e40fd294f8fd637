// The functions behind cpu_kernels(); contracts are those of the entries of DeviceKernels with the same
// names.
#pragma once

#include "parallel/device/kernels.h"

namespace cadre::device {

template <class T>
struct CpuKernels {
  using W = wide_t<T>;
  static void gemm(Queue&, View<const T, 2> a, View<const T, 2> b, View<T, 2> c, GemmFlags flags);
  static void gemm_onto(Queue&, View<const T, 2> a, View<const T, 2> b, View<const T, 2> plus, View<T, 2> c,
                        GemmFlags flags);
  static void gemm_batch(Queue&, View<const T, 3> a, View<const T, 3> b, View<T, 3> c, GemmFlags flags);
  static void rms_norm(Queue&, View<const T, 2> x, View<const T, 1> w, double eps, View<T, 2> y,
                       View<W, 1> rstd);
  static void rms_norm_backward(Queue&, View<const T, 2> dy, View<const T, 2> x, View<const T, 1> w,
                                View<const W, 1> rstd, bool add, View<T, 2> dx, View<T, 1> dw);
  static void rope(Queue&, View<T, 3> x, View<const int32_t, 1> position, View<const W, 2> table,
                   bool inverse);
  static void attention(Queue&, AttentionShape, View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                        View<const int32_t, 1> segment, View<T, 3> out, View<W, 2> lse);
  static void attention_backward(Queue&, AttentionShape, View<const T, 3> dout, View<const T, 3> q,
                                 View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> segment,
                                 View<const T, 3> out, View<const W, 2> lse, View<T, 3> dq, View<T, 3> dk,
                                 View<T, 3> dv);
  static void store_kv(Queue&, View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> place,
                       KvPages<T> pages);
  static void follow_drawn(Queue&, View<const int32_t, 1> drawn, View<const int32_t, 1> follows,
                           View<int32_t, 1> token);
  static void paged_attention(Queue&, View<const T, 3> q, KvPages<T> pages, View<const int32_t, 2> page_table,
                              View<const int32_t, 1> owner, View<const int32_t, 1> length, View<T, 3> out);
  static void swiglu(Queue&, View<const T, 2> gate, View<const T, 2> up, View<T, 2> y);
  static void swiglu_backward(Queue&, View<const T, 2> dy, View<const T, 2> gate, View<const T, 2> up,
                              View<T, 2> dgate, View<T, 2> dup, View<T, 2> y);
  static void embed(Queue&, View<const T, 2> table, View<const int32_t, 1> token, View<T, 2> y);
  static void embed_backward(Queue&, View<const T, 2> dy, View<const int32_t, 1> token, View<T, 2> dtable);
  static void log_prob(Queue&, View<const T, 2> logits, View<const int32_t, 1> target, View<W, 1> logp,
                       View<W, 1> lse);
  static void log_prob_backward(Queue&, View<T, 2> logits, View<const int32_t, 1> target,
                                View<const W, 1> lse, View<const W, 1> dlogp);
  static void log_prob_and_grad(Queue&, View<T, 2> logits, View<const int32_t, 1> target,
                                View<const W, 1> dlogp, View<W, 1> logp, View<W, 1> lse);
  static void sample(Queue&, View<const T, 2> logits, SampleShape shape, View<const double, 1> uniform,
                     View<int32_t, 1> token, View<W, 1> logp);
  static void add(Queue&, View<const T, 1> x, View<T, 1> y);
  static void copy(Queue&, View<const T, 1> x, View<T, 1> y);
  static void fill(Queue&, View<T, 1> x, double value);
  static void accumulate(Queue&, View<const T, 1> x, View<W, 1> sum);
  static void widen(Queue&, View<const T, 1> x, View<W, 1> wide);
};

}  // namespace cadre::device
