#include "tests/device/cuda/kernel_cases.h"

#include <fmt/format.h>

#include <cmath>

#include "parallel/base/rng.h"
#include "parallel/device/bf16.h"

namespace cadre::device {
namespace {

ArraySpec in(int64_t size, double scale = 1) {
  return {.size = size, .scale = scale};
}
ArraySpec wide_in(int64_t size, double scale = 1) {
  return {.kind = Kind::kWide, .size = size, .scale = scale};
}
ArraySpec out(int64_t size, double terms) {
  return {.size = size, .scale = 0, .output = true, .terms = terms};
}
ArraySpec wide_out(int64_t size, double terms) {
  return {.kind = Kind::kWide, .size = size, .scale = 0, .output = true, .terms = terms};
}
ArraySpec sum(int64_t size, double terms) {
  return {.size = size, .output = true, .terms = terms};
}
ArraySpec index(std::vector<int32_t> values) {
  return {.kind = Kind::kInt, .size = int64_t(values.size()), .ints = std::move(values)};
}
// n values below `limit`; every third is 1, so that some index is met often.
ArraySpec random_index(int64_t n, int64_t limit) {
  const base::Philox rng(5);
  std::vector<int32_t> values;
  for (int64_t i = 0; i < n; ++i)
    values.push_back(i % 3 == 0 ? int32_t(1 % limit) : int32_t(rng.words(uint64_t(i))[0] % uint64_t(limit)));
  return index(std::move(values));
}

template <class T>
struct Cases {
  std::vector<KernelCase<T>> list;
  template <class F>
  void add(std::string entry, std::string shape, std::vector<ArraySpec> arrays, F call) {
    list.push_back({std::move(entry), std::move(shape), std::move(arrays), call, call});
  }

  void gemm(int64_t m, int64_t n, int64_t k, GemmFlags flags) {
    ArraySpec c = flags.beta == 0 ? out(m * n, 1 + double(k)) : sum(m * n, 1 + double(k));
    // cuBLASLt may add the product, rounded, to what is in memory.
    if (flags.beta == 1) c.roundings = 2;
    add("gemm",
        fmt::format("{}x{}x{} t{}{} beta {}", m, n, k, int(flags.transpose_a), int(flags.transpose_b),
                    flags.beta),
        {in(m * k), in(k * n), c}, [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.gemm(q, a.template view<2>(0, flags.transpose_a ? std::array{k, m} : std::array{m, k}),
                       a.template view<2>(1, flags.transpose_b ? std::array{n, k} : std::array{k, n}),
                       a.template view<2>(2, {m, n}), flags);
        });
  }
  void gemm_onto(int64_t m, int64_t n, int64_t k, double beta) {
    ArraySpec c = out(m * n, 2 + double(k));
    c.roundings = 2;
    add("gemm_onto", fmt::format("{}x{}x{} beta {}", m, n, k, beta), {in(m * k), in(k * n), in(m * n), c},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.gemm_onto(q, a.template view<2>(0, {m, k}), a.template view<2>(1, {n, k}),
                            a.template view<2>(2, {m, n}), a.template view<2>(3, {m, n}),
                            {.transpose_b = true, .beta = beta});
        });
  }
  // shared: 0 no operand, 1 the first, 2 the second.
  void gemm_batch(int64_t count, int64_t m, int64_t n, int64_t k, int shared, bool transpose_a) {
    const int64_t as = shared == 1 ? 1 : count, bs = shared == 2 ? 1 : count;
    add("gemm_batch", fmt::format("{} of {}x{}x{} shared {} t{}", count, m, n, k, shared, int(transpose_a)),
        {in(as * m * k), in(bs * k * n), out(count * m * n, 1 + double(k))},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.gemm_batch(q,
                             a.template view<3>(0, transpose_a ? std::array{as, k, m} : std::array{as, m, k}),
                             a.template view<3>(1, transpose_a ? std::array{bs, k, n} : std::array{bs, n, k}),
                             a.template view<3>(2, {count, m, n}),
                             {.transpose_a = transpose_a, .transpose_b = !transpose_a});
        });
  }
  void norm(int64_t rows, int64_t width) {
    const std::string shape = fmt::format("{}x{}", rows, width);
    add("rms_norm", shape, {in(rows * width), in(width), out(rows * width, 8), wide_out(rows, 8)},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.rms_norm(q, a.template view<2>(0, {rows, width}), a.template view<1>(1, {width}), 1e-5,
                           a.template view<2>(2, {rows, width}), a.template wide<1>(3, {rows}));
        });
    for (const bool onto : {true, false}) {
      const ArraySpec dx = onto ? sum(rows * width, 64) : out(rows * width, 64);
      add("rms_norm_backward", shape + (onto ? "" : " not added"),
          {in(rows * width), in(rows * width), in(width), wide_in(rows), dx, sum(width, 64)},
          [=](const auto& kernels, Queue& q, const auto& a) {
            kernels.rms_norm_backward(q, a.template view<2>(0, {rows, width}),
                                      a.template view<2>(1, {rows, width}), a.template view<1>(2, {width}),
                                      a.template wide<1>(3, {rows}), onto,
                                      a.template view<2>(4, {rows, width}), a.template view<1>(5, {width}));
          });
    }
  }
  // times: tensors one after the other, with the same positions.
  void rope(int64_t tokens, int64_t heads, int64_t h, bool inverse, int64_t times = 1) {
    add("rope", fmt::format("{}x{}x{}x{}", times, tokens, heads, h),
        {sum(times * tokens * heads * h, 4), random_index(tokens, 50), wide_in(50 * h)},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.rope(q, a.template view<3>(0, {times * tokens, heads, h}), a.ints(1, tokens),
                       a.template wide<2>(2, {50, h}), inverse);
        });
  }
  void swiglu(int64_t rows, int64_t width) {
    const int64_t n = rows * width;
    const std::string shape = fmt::format("{}x{}", rows, width);
    add("swiglu", shape, {in(n, 3), in(n), out(n, 64)}, [=](const auto& kernels, Queue& q, const auto& a) {
      kernels.swiglu(q, a.template view<2>(0, {rows, width}), a.template view<2>(1, {rows, width}),
                     a.template view<2>(2, {rows, width}));
    });
    for (const bool alias : {false, true}) {
      std::vector<ArraySpec> arrays = {in(n), in(n, 3), in(n), out(n, 64), out(n, 64)};
      if (alias) arrays[1].output = arrays[2].output = true, arrays[1].terms = arrays[2].terms = 64;
      if (alias) arrays.resize(3);
      if (!alias) arrays.push_back(out(n, 64));
      add("swiglu_backward", shape + (alias ? " in place" : ""), arrays,
          [=](const auto& kernels, Queue& q, const auto& a) {
            const auto array = [&](int i) { return a.template view<2>(i, {rows, width}); };
            kernels.swiglu_backward(q, array(0), array(1), array(2), array(alias ? 1 : 3),
                                    array(alias ? 2 : 4), alias ? decltype(array(0)){} : array(5));
          });
    }
  }
  void embed(int64_t vocab, int64_t width, int64_t tokens) {
    const std::string shape = fmt::format("{} of {}x{}", tokens, vocab, width);
    add("embed", shape, {in(vocab * width), random_index(tokens, vocab), out(tokens * width, 0)},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.embed(q, a.template view<2>(0, {vocab, width}), a.ints(1, tokens),
                        a.template view<2>(2, {tokens, width}));
        });
    add("embed_backward", shape,
        {in(tokens * width), random_index(tokens, vocab), sum(vocab * width, 8 + double(tokens) / 3)},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.embed_backward(q, a.template view<2>(0, {tokens, width}), a.ints(1, tokens),
                                 a.template view<2>(2, {vocab, width}));
        });
  }
  void log_prob(int64_t rows, int64_t vocab, double scale) {
    const std::string shape = fmt::format("{}x{} scale {}", rows, vocab, scale);
    add("log_prob", shape,
        {in(rows * vocab, scale), random_index(rows, vocab), wide_out(rows, 64), wide_out(rows, 16)},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.log_prob(q, a.template view<2>(0, {rows, vocab}), a.ints(1, rows),
                           a.template wide<1>(2, {rows}), a.template wide<1>(3, {rows}));
        });
    ArraySpec logits = sum(rows * vocab, 64 * (1 + scale * scale));
    logits.scale = scale;
    ArraySpec lse = wide_in(rows, 0.5);
    lse.offset = 4 * scale;  // above most logits, as a log-sum-exp is
    add("log_prob_backward", shape, {logits, random_index(rows, vocab), lse, wide_in(rows)},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.log_prob_backward(q, a.template view<2>(0, {rows, vocab}), a.ints(1, rows),
                                    a.template wide<1>(2, {rows}), a.template wide<1>(3, {rows}));
        });
  }
  void log_prob_and_grad(int64_t rows, int64_t vocab) {
    ArraySpec logits = sum(rows * vocab, 128);
    add("log_prob_and_grad", fmt::format("{}x{}", rows, vocab),
        {logits, random_index(rows, vocab), wide_in(rows), wide_out(rows, 64), wide_out(rows, 16)},
        [=](const auto& kernels, Queue& q, const auto& a) {
          kernels.log_prob_and_grad(q, a.template view<2>(0, {rows, vocab}), a.ints(1, rows),
                                    a.template wide<1>(2, {rows}), a.template wide<1>(3, {rows}),
                                    a.template wide<1>(4, {rows}));
        });
  }
  void flat(int64_t n) {
    const std::string shape = fmt::format("{}", n);
    add("add", shape, {in(n), sum(n, 1)}, [=](const auto& kernels, Queue& q, const auto& a) {
      kernels.add(q, a.template view<1>(0, {n}), a.template view<1>(1, {n}));
    });
    add("copy", shape, {in(n), out(n, 0)}, [=](const auto& kernels, Queue& q, const auto& a) {
      kernels.copy(q, a.template view<1>(0, {n}), a.template view<1>(1, {n}));
    });
    ArraySpec sum_in_wide = wide_out(n, 1);
    sum_in_wide.scale = 1;
    add("accumulate", shape, {in(n), sum_in_wide}, [=](const auto& kernels, Queue& q, const auto& a) {
      kernels.accumulate(q, a.template view<1>(0, {n}), a.template wide<1>(1, {n}));
    });
    add("widen", shape, {in(n), wide_out(n, 0)}, [=](const auto& kernels, Queue& q, const auto& a) {
      kernels.widen(q, a.template view<1>(0, {n}), a.template wide<1>(1, {n}));
    });
    for (const double value : {0.0, 2.5}) {
      add("fill", shape, {out(n, 0)}, [=](const auto& kernels, Queue& q, const auto& a) {
        kernels.fill(q, a.template view<1>(0, {n}), value);
      });
    }
  }
};

// Documents of about `document` tokens, the last ninth of each sequence padding; none when 0.
std::vector<int32_t> segments(const AttentionShape& s, int64_t document) {
  std::vector<int32_t> values;
  for (int64_t t = 0; document > 0 && t < s.num_sequences * s.seq_len; ++t) {
    const int64_t i = t % s.seq_len;
    values.push_back(i < s.seq_len - s.seq_len / 9 ? int32_t((i + t / s.seq_len * 3) / document) : -1);
  }
  return values;
}

// The backward case makes out and lse itself, from the same table: its inputs then belong together.
template <class T>
void attention(Cases<T>& cases, const AttentionShape& s, int64_t document) {
  const int64_t rows = s.num_sequences * s.seq_len, keys = s.num_sequences * (s.seq_len + s.num_past);
  const int64_t q_size = rows * s.num_heads * s.head_dim, k_size = keys * s.num_kv_heads * s.head_dim;
  const std::vector<int32_t> segment = segments(s, document);
  const int64_t segment_size = int64_t(segment.size());
  const double terms = double(s.head_dim + s.num_past + s.seq_len);
  ArraySpec result = out(q_size, terms), stat = wide_out(rows * s.num_heads, terms);
  result.inner = 3;
  const std::string shape = fmt::format("{}x{}+{} heads {}/{} h {} documents {}", s.num_sequences, s.seq_len,
                                        s.num_past, s.num_heads, s.num_kv_heads, s.head_dim, document);
  const auto forward = [=](const auto& kernels, Queue& q, const auto& a) {
    kernels.attention(q, s, a.template view<3>(0, {rows, s.num_heads, s.head_dim}),
                      a.template view<3>(1, {keys, s.num_kv_heads, s.head_dim}),
                      a.template view<3>(2, {keys, s.num_kv_heads, s.head_dim}), a.ints(3, segment_size),
                      a.template view<3>(4, {rows, s.num_heads, s.head_dim}),
                      a.template wide<2>(5, {rows, s.num_heads}));
  };
  const std::vector<ArraySpec> arrays = {in(q_size), in(k_size), in(k_size), index(segment), result, stat};
  cases.add("attention", shape, arrays, forward);
  if (s.num_past > 0) return;
  std::vector<ArraySpec> more = arrays;
  ArraySpec dq = out(q_size, 8 * terms), dk = out(k_size, 8 * terms);
  dq.inner = dk.inner = 16;  // also of out, which delta is made from
  for (const ArraySpec& spec : {in(q_size), dq, dk, dk}) more.push_back(spec);
  cases.add("attention_backward", shape, more, [=](const auto& kernels, Queue& q, const auto& a) {
    forward(kernels, q, a);
    const auto head = [&](int i, int64_t n) { return a.template view<3>(i, {rows, n, s.head_dim}); };
    kernels.attention_backward(q, s, head(6, s.num_heads), head(0, s.num_heads), head(1, s.num_kv_heads),
                               head(2, s.num_kv_heads), a.ints(3, segment_size), head(4, s.num_heads),
                               a.template wide<2>(5, {rows, s.num_heads}), head(7, s.num_heads),
                               head(8, s.num_kv_heads), head(9, s.num_kv_heads));
  });
}

}  // namespace

template <class T>
std::vector<KernelCase<T>> kernel_cases() {
  Cases<T> cases;
  cases.list = generation_cases<T>();
  const std::array<int64_t, 3> shapes[] = {{1, 1, 1},      {1, 300, 65}, {33, 7, 129}, {200, 3, 64},
                                           {128, 256, 64}, {0, 5, 3},    {4, 6, 0},    {520, 264, 1000}};
  for (const auto& [m, n, k] : shapes) {
    for (int transposed = 0; transposed < 4; ++transposed) {
      for (const double beta : {0.0, 1.0, -2.0})
        cases.gemm(m, n, k, {bool(transposed & 1), bool(transposed & 2), 0.5, beta});
    }
  }
  cases.gemm(1024, 768, 1024, {.transpose_b = true, .beta = 1});  // with several algorithms to choose from
  cases.gemm(512, 1024, 2048, {.transpose_a = true});
  for (const double beta : {0.0, 1.0, 0.5}) {
    cases.gemm_onto(33, 7, 129, beta);
    cases.gemm_onto(300, 264, 128, beta);
    cases.gemm_onto(8, 8, 0, beta);
  }
  for (const int shared : {0, 1, 2}) {
    for (const bool transpose_a : {false, true}) {
      cases.gemm_batch(3, 200, 136, 264, shared, transpose_a);
      cases.gemm_batch(2, 33, 7, 5, shared, transpose_a);
    }
  }
  // 2200: more rows than the blocks of the backward pass take at a time.
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{9, 37},
                                    {1, 8},
                                    {700, 64},
                                    {1001, 128},
                                    {5000, 96},
                                    {65, 512},
                                    {2200, 264},
                                    {77, 1024},
                                    {600, 2048},
                                    {33, 2056},
                                    {31, 8192},
                                    {3, 16392}}) {
    cases.norm(rows, width);
  }
  for (const bool inverse : {false, true}) {
    cases.rope(37, 3, 6, inverse);
    cases.rope(130, 16, 128, inverse);
    cases.rope(9, 5, 80, inverse);
    cases.rope(77, 12, 64, inverse);
    cases.rope(61, 8, 64, inverse, 2);
    cases.rope(4300, 16, 64, inverse);  // more tokens than run at a time
    cases.rope(5, 3, 6, inverse, 2);
  }
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{1, 1}, {13, 77}, {65, 1024}})
    cases.swiglu(rows, width);
  cases.embed(6, 21, 400);
  cases.embed(500, 64, 1000);
  cases.embed(2, 72, 1000);  // tokens that stand in many pieces
  cases.embed(3, 2048, 70);
  cases.embed(50304, 8, 33);
  for (const double scale : {1.0, 100.0}) {
    cases.log_prob(5, 3001, scale);
    cases.log_prob(3, 50304, scale);
    cases.log_prob(2, 1, scale);
  }
  for (const int64_t vocab : {1, 3001, 4096, 50304, 131072}) cases.log_prob_and_grad(3, vocab);
  for (const int64_t n : {1, 7, 256, 50001}) cases.flat(n);
  for (const int64_t h : {6, 32, 64, 96, 128}) {
    for (const int64_t document : {0, 5, 40, 129}) {
      for (const int64_t length : {1, 65, 130, 300})
        attention<T>(cases, {2, length, 4, length == 130 ? 4 : 2, h}, document);
    }
    for (const int64_t past : {1, 100, 129}) attention<T>(cases, {1, 70, 4, 1, h, past}, 0);
    attention<T>(cases, {1, 1, 4, 2, h, 300}, 0);
    attention<T>(cases, {1, 700, 2, 1, h}, 0);
    attention<T>(cases, {1, 700, 2, 1, h}, 190);
  }
  // So many heads that a GPU of compute capability 9.0 makes dq, dk and dv in one kernel.
  for (const int64_t document : {0, 100}) attention<T>(cases, {48, 261, 4, 2, 64}, document);
  attention<T>(cases, {20, 193, 8, 8, 64}, 0);
  return cases.list;
}

template std::vector<KernelCase<float>> kernel_cases();
template std::vector<KernelCase<bf16>> kernel_cases();

}  // namespace cadre::device
