// Cases of the kernels of generation: keys and values in pages, and draws.
#include <fmt/format.h>

#include <algorithm>

#include "parallel/base/rng.h"
#include "parallel/device/bf16.h"
#include "tests/device/cuda/kernel_cases.h"

namespace cadre::device {
namespace {

ArraySpec in(int64_t size, double scale = 1) {
  return {.size = size, .scale = scale};
}
ArraySpec ints(std::vector<int32_t> values) {
  return {.kind = Kind::kInt, .size = int64_t(values.size()), .ints = std::move(values)};
}

template <class T, class F>
void add(std::vector<KernelCase<T>>& cases, std::string entry, std::string shape,
         std::vector<ArraySpec> arrays, F call) {
  cases.push_back({std::move(entry), std::move(shape), std::move(arrays), call, call});
}

// Pages of several sequences in no order, with other layers' memory between them.
struct Paged {
  int64_t heads, kv_heads, h, page_size;
  std::vector<int64_t> lengths;          // of the rows; each has a sequence of its own
  static constexpr int64_t kMargin = 3;  // pages that nobody owns

  int64_t rows() const { return int64_t(lengths.size()); }
  int64_t pages_per_row() const {
    int64_t most = 1;
    for (const int64_t n : lengths) most = std::max(most, (n + page_size - 1) / page_size);
    return most + 1;
  }
  int64_t pages() const { return rows() * pages_per_row() + kMargin; }
  int64_t half() const { return page_size * kv_heads * h; }
  int64_t stride() const { return 3 * half(); }
  int64_t memory() const { return pages() * stride(); }
  // Those behind a sequence's end are -1.
  std::vector<int32_t> table() const {
    std::vector<int32_t> order, result;
    for (int64_t i = 0; i < pages(); ++i) order.push_back(int32_t(i));
    const base::Philox rng(3);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.bits(i) % i]);
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t i = 0; i < pages_per_row(); ++i)
        result.push_back(i * page_size < lengths[size_t(row)] ? order[size_t(row * pages_per_row() + i)]
                                                              : -1);
    }
    return result;
  }
  template <class X>
  KvPages<X> view(X* memory) const {
    return {memory, memory + half(), stride(), page_size, kv_heads, h};
  }
  std::string name() const {
    return fmt::format("{} rows heads {}/{} h {} pages of {}", rows(), heads, kv_heads, h, page_size);
  }
};

template <class T>
void paged(std::vector<KernelCase<T>>& cases, const Paged& p) {
  const int64_t rows = p.rows(), memory = p.memory();
  std::vector<int32_t> place, owner, length;
  const std::vector<int32_t> table = p.table();
  int64_t longest = 1;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t n = p.lengths[size_t(row)], last = n - 1;
    // The last token of each sequence; none of an empty one.
    place.push_back(n == 0
                        ? -1
                        : int32_t(table[size_t(row * p.pages_per_row() + last / p.page_size)] * p.page_size +
                                  last % p.page_size));
    owner.push_back(n == 0 ? -1 : int32_t(row));
    length.push_back(int32_t(n));
    longest = std::max(longest, n);
  }
  const int64_t row_size = p.kv_heads * p.h;
  ArraySpec memory_that_changes = in(memory);
  memory_that_changes.output = true;
  add<T>(cases, "store_kv", p.name(),
         {in(rows * row_size), in(rows * row_size), ints(place), memory_that_changes},
         [=](const auto& kernels, Queue& q, const auto& a) {
           kernels.store_kv(q, a.template view<3>(0, {rows, p.kv_heads, p.h}),
                            a.template view<3>(1, {rows, p.kv_heads, p.h}), a.ints(2, rows),
                            p.view(a.template view<1>(3, {memory}).data()));
         });
  const ArraySpec result{
      .size = rows * p.heads * p.h, .scale = 0, .output = true, .terms = double(p.h + longest), .inner = 3};
  add<T>(cases, "paged_attention", p.name(),
         {in(rows * p.heads * p.h), in(memory), ints(table), ints(owner), ints(length), result},
         [=](const auto& kernels, Queue& q, const auto& a) {
           const View<const int32_t, 2> pages(a.ints(2, 1).data(), {rows, p.pages_per_row()});
           kernels.paged_attention(q, a.template view<3>(0, {rows, p.heads, p.h}),
                                   p.view(a.template view<1>(1, {memory}).data()), pages, a.ints(3, rows),
                                   a.ints(4, rows), a.template view<3>(5, {rows, p.heads, p.h}));
         });
}

// The tokens must be those of the CPU. bf16 logits have many ties, which cuts must part by id.
template <class T>
void sample(std::vector<KernelCase<T>>& cases, int64_t rows, int64_t vocab, const SampleShape& shape,
            double scale) {
  ArraySpec logits = in(rows * vocab, scale), token{.kind = Kind::kInt, .size = rows, .output = true};
  token.ints.assign(size_t(rows), -7);
  ArraySpec uniform{.kind = Kind::kDouble, .size = rows};
  const base::Philox rng(17);
  for (int64_t r = 0; r < rows; ++r)
    uniform.doubles.push_back(r == 0 ? 0 : r == 1 ? 1 - 0x1p-20 : rng.uniform(uint64_t(r)));
  const ArraySpec logp{.kind = Kind::kWide, .size = rows, .scale = 0, .output = true, .terms = 4};
  const std::string name = fmt::format("{}x{} temperature {} top_k {} top_p {} scale {}", rows, vocab,
                                       shape.temperature, shape.top_k, shape.top_p, scale);
  add<T>(cases, "sample", name, {logits, uniform, token, logp},
         [=](const auto& kernels, Queue& q, const auto& a) {
           kernels.sample(q, a.template view<2>(0, {rows, vocab}), shape, a.doubles(1, rows),
                          a.ints_out(2, rows), a.template wide<1>(3, {rows}));
         });
}

}  // namespace

template <class T>
std::vector<KernelCase<T>> generation_cases() {
  std::vector<KernelCase<T>> cases;
  for (const int64_t h : {6, 32, 64, 96, 128, 200}) {
    paged<T>(cases, {4, 2, h, 4, {1, 4, 5, 17, 0, 130}});
    paged<T>(cases, {3, 3, h, 16, {33, 0, 16, 1, 257}});
  }
  paged<T>(cases, {4, 4, 128, 16, {384, 129, 200, 64, 1, 15, 16, 17}});
  paged<T>(cases, {8, 1, 300, 8, {40, 9}});
  const SampleShape shapes[] = {{},
                                {.temperature = 0},
                                {.temperature = 0.5},
                                {.temperature = 3, .top_k = 3},
                                {.top_k = 1},
                                {.top_k = 40},
                                {.top_p = 0.7},
                                {.top_p = 1e-9},
                                {.top_p = 0.999},
                                {.temperature = 1.3, .top_k = 50, .top_p = 0.9}};
  for (const SampleShape& shape : shapes) {
    for (const double scale : {0.0625, 1.0, 8.0}) sample<T>(cases, 40, 1000, shape, scale);
    sample<T>(cases, 9, 7, shape, 2);
    sample<T>(cases, 3, 257, shape, 2);
    sample<T>(cases, 5, 50304, shape, 3);
  }
  sample<T>(cases, 3, 1, {}, 1);
  sample<T>(cases, 129, 5000, {},
            2);  // so many rows that a block takes one; fewer, with as many ids, are shared out
  sample<T>(cases, 128, 5000, {}, 2);
  return cases;
}

template std::vector<KernelCase<float>> generation_cases();
template std::vector<KernelCase<bf16>> generation_cases();

}  // namespace cadre::device
