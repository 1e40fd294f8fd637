// The table of dense kernels of a device: one entry per operation, chosen once at construction. The CPU
// entries are the readable reference, instantiated for float and double; CUDA has float and bf16. Views are of
// device memory: the host never reads them, and no entry waits for the device. Shapes are row-major; T tokens, D
// model, N heads, G KV heads, h head size, F hidden width, V vocabulary. No kernel allocates; scratch is
// passed in. Results do not depend on anything but the arguments and the queue's number of threads.
#pragma once

#include <cstdint>

#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::device {

// C = alpha * op(A) op(B) + beta * C, with op(A) (M, K) and op(B) (K, N). Leading dimensions are the views'
// own.
struct GemmFlags {
  bool transpose_a = false, transpose_b = false;
  double alpha = 1, beta = 0;
};

// Rows of q, k, v belong to sequences of seq_len consecutive tokens; token i sees j <= i of its own sequence
// with segment[j] == segment[i]. segment is empty when documents are not masked. Scores are scaled by
// 1/sqrt(h). num_past > 0 (generation, forward only, no segments): k and v have num_past more rows a
// sequence, in front, which every query sees.
struct AttentionShape {
  int64_t num_sequences = 0, seq_len = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t num_past = 0;
};

// Keys and values of many sequences in pages (Kwon et al. 2023, PagedAttention): within a page, rows of (G, h), one a
// token; pages lie page_stride elements apart. A token's place is page * page_size + its row in the page.
template <class T>
struct KvPages {
  T *k = nullptr, *v = nullptr;  // row 0 of page 0
  int64_t page_stride = 0, page_size = 0, num_kv_heads = 0, head_dim = 0;
};

// What place_heads makes of new tokens.
template <class T>
struct NewHeads {
  using W = wide_t<T>;
  View<const T, 3> q, k, v;  // as projected: (T, N, h), (T, G, h) twice
  View<const T, 1> q_weight,
      k_weight;  // of their norms: (h) for each head, or (N h) and (G h); empty: no norm
  double eps = 0;
  View<const int32_t, 1> position;  // (T), with table as for rope
  View<const W, 2> table;
  View<const int32_t, 1> place;  // (T) as for store_kv
  KvPages<T> pages;
  View<T, 3> q_out;  // may be q
};

// The distribution that tokens are drawn from: softmax(logits / temperature), cut to the top_k likeliest tokens and then
// to the fewest of those that hold top_p of the rest, the one that crosses it included. Ties go to the lower id.
struct SampleShape {
  double temperature = 1;  // 0: the likeliest token
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
};

template <class T>
struct DeviceKernels {
  using W = wide_t<T>;

  void (*gemm)(Queue&, View<const T, 2> a, View<const T, 2> b, View<T, 2> c, GemmFlags flags);
  // The same with C = alpha * op(A) op(B) + beta * plus.
  void (*gemm_onto)(Queue&, View<const T, 2> a, View<const T, 2> b, View<const T, 2> plus, View<T, 2> c,
                    GemmFlags flags);
  // One product for each matrix of c; where a or b holds only one, all share it.
  void (*gemm_batch)(Queue&, View<const T, 3> a, View<const T, 3> b, View<T, 3> c, GemmFlags flags);

  // y = x * rstd * w with rstd = 1/sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019). x, y: (T, D), w: (D), rstd:
  // (T).
  void (*rms_norm)(Queue&, View<const T, 2> x, View<const T, 1> w, double eps, View<T, 2> y, View<W, 1> rstd);
  // dx += gradient, or = unless add; dw += gradient (fixed order of summation).
  void (*rms_norm_backward)(Queue&, View<const T, 2> dy, View<const T, 2> x, View<const T, 1> w,
                            View<const W, 1> rstd, bool add, View<T, 2> dx, View<T, 1> dw);

  // Rotates pairs (i, i + h/2) of each head by the angle of (position, i) (Su et al. 2021; Llama's half-split layout).
  // x: (T, heads, h), in place, or several such in a row with the same T positions. inverse = true is the backward pass.
  // table: (positions, h), row p holds the cosines of its h/2 angles, then their sines.
  void (*rope)(Queue&, View<T, 3> x, View<const int32_t, 1> position, View<const W, 2> table, bool inverse);

  // out: (T, N, h); lse: (T, N), the log-sum-exp of each row of scores, kept for the backward pass.
  void (*attention)(Queue&, AttentionShape, View<const T, 3> q, View<const T, 3> k, View<const T, 3> v,
                    View<const int32_t, 1> segment, View<T, 3> out, View<W, 2> lse);
  // Overwrites dq (T, N, h), dk, dv (T, G, h).
  void (*attention_backward)(Queue&, AttentionShape, View<const T, 3> dout, View<const T, 3> q,
                             View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> segment,
                             View<const T, 3> out, View<const W, 2> lse, View<T, 3> dq, View<T, 3> dk,
                             View<T, 3> dv);

  // Writes row t of k and v (T, G, h) to place[t]; rows with place -1 go nowhere.
  void (*store_kv)(Queue&, View<const T, 3> k, View<const T, 3> v, View<const int32_t, 1> place,
                   KvPages<T> pages);
  // rms_norm of queries and keys, rounded to T; rope of both; then keys and values go to their pages, queries to q_out: a
  // launch for passes of so few rows that each step is smaller than what it takes to start it. Null where a device does
  // better one by one.
  void (*place_heads)(Queue&, const NewHeads<T>&);
  // Generation: token[t] = drawn[follows[t]] where that is not -1; the others stay as they are.
  void (*follow_drawn)(Queue&, View<const int32_t, 1> drawn, View<const int32_t, 1> follows,
                       View<int32_t, 1> token);
  // Generation: query t (T, N, h) sees the first length[t] tokens of the sequence whose pages are row owner[t] of
  // page_table (S, M); length 0 gives zeros. The three lists are read early: only the host may write them.
  void (*paged_attention)(Queue&, View<const T, 3> q, KvPages<T> pages, View<const int32_t, 2> page_table,
                          View<const int32_t, 1> owner, View<const int32_t, 1> length, View<T, 3> out);

  // y = silu(gate) * up; all (R, F).
  void (*swiglu)(Queue&, View<const T, 2> gate, View<const T, 2> up, View<T, 2> y);
  // Overwrites dgate and dup (may alias gate and up), and y with what swiglu gives (may be empty, or alias dy).
  void (*swiglu_backward)(Queue&, View<const T, 2> dy, View<const T, 2> gate, View<const T, 2> up,
                          View<T, 2> dgate, View<T, 2> dup, View<T, 2> y);

  // y[t] = table[token[t]]; the backward pass adds rows in order of t.
  void (*embed)(Queue&, View<const T, 2> table, View<const int32_t, 1> token, View<T, 2> y);
  void (*embed_backward)(Queue&, View<const T, 2> dy, View<const int32_t, 1> token, View<T, 2> dtable);

  // logp[t] = logits[t][target[t]] - logsumexp(logits[t]) for a chunk of tokens; lse kept for the backward
  // pass.
  void (*log_prob)(Queue&, View<const T, 2> logits, View<const int32_t, 1> target, View<W, 1> logp,
                   View<W, 1> lse);
  // In place: logits become d loss / d logits = dlogp[t] * (onehot(target[t]) - softmax(logits[t])).
  void (*log_prob_backward)(Queue&, View<T, 2> logits, View<const int32_t, 1> target, View<const W, 1> lse,
                            View<const W, 1> dlogp);
  // Both at once, where dlogp is known before logp.
  void (*log_prob_and_grad)(Queue&, View<T, 2> logits, View<const int32_t, 1> target, View<const W, 1> dlogp,
                            View<W, 1> logp, View<W, 1> lse);

  // token[r] from the distribution of logits[r], the lowest id at which the cumulative probability in order of ids
  // exceeds uniform[r], in [0, 1); logp[r] is the logarithm of its probability in that very distribution.
  void (*sample)(Queue&, View<const T, 2> logits, SampleShape shape, View<const double, 1> uniform,
                 View<int32_t, 1> token, View<W, 1> logp);

  void (*add)(Queue&, View<const T, 1> x, View<T, 1> y);   // y += x
  void (*copy)(Queue&, View<const T, 1> x, View<T, 1> y);  // y = x
  void (*fill)(Queue&, View<T, 1> x, double value);
  // sum += x: gradients of several micro-batches in wide_t.
  void (*accumulate)(Queue&, View<const T, 1> x, View<W, 1> sum);
  // wide = x.
  void (*widen)(Queue&, View<const T, 1> x, View<W, 1> wide);
};

// The CPU table, for T = float and double.
template <class T>
const DeviceKernels<T>& cpu_kernels();
// The table for a device; throws Error(kUsage) when this build has none for it and this type.
template <class T>
const DeviceKernels<T>& device_kernels(DeviceKind device);

}  // namespace cadre::device
