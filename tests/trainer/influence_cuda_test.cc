// Every row of CUDA's table of kernels for influence scores against the CPU's in double on the same (rounded) numbers,
// at odd and even widths, with equal bits when it is repeated.
#include <functional>
#include <map>

#include "tests/moe/cuda/side.h"
#include "trainer/influence/cuda/kernels_cuda.h"

namespace cadre::trainer {
namespace {

using device::bf16;
using device::View;
using moe::numbers;
using moe::Results;
using moe::Side;

struct Shape {
  int64_t rows, width;
};
const Shape kShapes[] = {{1, 1}, {7, 13}, {70, 64}, {33, 100}, {300, 1024}, {9, 2049}};

template <class X>
const InfluenceKernels<X>& table(Side<X>& s) {
  return influence_kernels<X>(s.queue.kind());
}

// A row of the table by name, on one side: numbers of storage type T, computed in X.
template <class T>
struct Entries {
  template <class X, int N>
  static View<X, N> normals(Side<X>& s, std::array<int64_t, N> shape, uint64_t key) {
    return s.template put<X, N>(numbers<T>(size_t(View<X, N>(nullptr, shape).size()), key), shape);
  }
  template <class X, int N>
  static View<device::wide_t<X>, N> wide_normals(Side<X>& s, std::array<int64_t, N> shape, uint64_t key) {
    using W = device::wide_t<X>;
    return s.template put<W, N>(numbers<float>(size_t(View<X, N>(nullptr, shape).size()), key), shape);
  }
  // Tokens 0 .. limit - 1 in no order, some of them -1.
  static std::vector<double> tokens(int64_t rows, int64_t limit) {
    std::vector<double> all;
    for (int64_t r = 0; r < rows; ++r) all.push_back(r % 5 == 3 ? -1.0 : double((r * 7 + 3) % limit));
    return all;
  }

  template <class X>
  static Results run(const std::string& entry, Side<X>& s, const Shape& shape) {
    const auto& k = table(s);
    const int64_t rows = shape.rows, width = shape.width, count = rows * width;
    const auto score = s.template poison<double, 1>({rows});
    if (entry == "row_dots") {
      k.row_dots(s.queue, normals<X, 2>(s, {rows, width}, 1), normals<X, 2>(s, {rows, width}, 2), score);
      return {s.get(score)};
    }
    if (entry == "wide_row_dots") {
      k.wide_row_dots(s.queue, wide_normals<X, 2>(s, {rows, width}, 1),
                      wide_normals<X, 2>(s, {rows, width}, 2), score);
      return {s.get(score)};
    }
    if (entry == "lookup_dots") {
      std::vector<double> index;
      for (int64_t r = 0; r < rows; ++r) index.push_back(double((r * 11) % 17));
      k.lookup_dots(s.queue, normals<X, 2>(s, {rows, width}, 1), s.template put<int32_t, 1>(index, {rows}),
                    normals<X, 2>(s, {17, width}, 3), score);
      return {s.get(score)};
    }
    if (entry == "scale_dots") {
      k.scale_dots(s.queue, normals<X, 2>(s, {rows, width}, 1), wide_normals<X, 1>(s, {rows}, 4),
                   normals<X, 2>(s, {rows, width}, 2), normals<X, 1>(s, {width}, 5), score);
      return {s.get(score)};
    }
    const auto sums = s.template put<double, 1>(numbers<float>(size_t(rows), 6), {rows});
    if (entry == "add_to_tokens") {
      const auto of_rows = s.template put<double, 1>(numbers<float>(size_t(3 * rows), 7), {3 * rows});
      k.add_to_tokens(s.queue, of_rows, 3, sums);
      return {s.get(sums)};
    }
    if (entry == "add_lists_to_tokens") {
      const int64_t slots = 4 * rows + 1;
      const auto token = s.template put<int32_t, 1>(tokens(slots, rows), {slots});
      const auto of_slots = s.template put<double, 1>(numbers<float>(size_t(slots), 8), {slots});
      const auto offsets = s.template poison<int32_t, 1>({rows + 1}),
                 list = s.template poison<int32_t, 1>({slots});
      s.table.slots_by_row(s.queue, token, offsets, list);
      k.add_lists_to_tokens(s.queue, of_slots, offsets, list, sums);
      return {s.get(sums)};
    }
    const auto mean = wide_normals<X, 1>(s, {count}, 9);
    if (entry == "blend") {
      k.blend(s.queue, 0.75, normals<X, 1>(s, {count}, 10), mean);
      return {s.get(mean)};
    }
    if (entry == "blend_wide") {
      k.blend_wide(s.queue, 0.75, wide_normals<X, 1>(s, {count}, 10), mean);
      return {s.get(mean)};
    }
    if (entry == "narrow") {
      const auto y = s.template poison<X, 1>({count});
      k.narrow(s.queue, mean, y);
      return {s.get(y)};
    }
    const auto sum = s.template put<double, 1>({0.5}, {1});
    if (entry == "add_dot") {
      k.add_dot(s.queue, normals<X, 1>(s, {count}, 1), normals<X, 1>(s, {count}, 2), sum);
    } else {
      k.add_dot_wide(s.queue, normals<X, 1>(s, {count}, 1), mean, sum);
    }
    return {s.get(sum)};
  }
};

constexpr std::array<const char*, 11> kEntries = {
    "row_dots", "wide_row_dots", "lookup_dots", "scale_dots", "add_to_tokens", "add_lists_to_tokens",
    "blend",    "blend_wide",    "narrow",      "add_dot",    "add_dot_wide"};
static_assert(sizeof(InfluenceKernels<float>) == kEntries.size() * sizeof(void*), "every row has a case");

template <class T>
class CudaInfluence : public moe::BothSides<T> {};
TYPED_TEST_SUITE(CudaInfluence, moe::Storages);

// Sums in float of up to 64 terms a lane (8 a thread for flat ones), then in double; `narrow` rounds to T. Single sums can
// be near 0, so a whole array's norm is compared, and a lone sum against its terms' size.
TYPED_TEST(CudaInfluence, EveryRowOfTheTableIsTheCpusInDouble) {
  using T = TypeParam;
  for (const std::string entry : kEntries) {
    for (const Shape& shape : kShapes) {
      const auto body = [&]<class X>(Side<X>& s) { return Entries<T>::run(entry, s, shape); };
      const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
      const std::string what = fmt::format("{} {}x{}", entry, shape.rows, shape.width);
      ASSERT_EQ(gpu.size(), cpu.size()) << what;
      const bool rounds = entry == "narrow" && std::is_same_v<T, bf16>;
      const double bound = rounds ? 0x1p-8 : 0x1p-24 * 16;
      if (entry.starts_with("add_dot")) {
        EXPECT_NEAR(gpu[0][0], cpu[0][0], bound * std::sqrt(double(shape.rows * shape.width))) << what;
      } else {
        moe::expect_close(gpu[0], cpu[0], bound, what);
      }
      moe::expect_same(this->on_gpu(body), gpu);
    }
  }
}

}  // namespace
}  // namespace cadre::trainer
