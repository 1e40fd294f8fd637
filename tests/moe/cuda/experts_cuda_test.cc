// The experts' products on CUDA, by every way of computing them, against the CPU's in double: at group sizes
// around the tiles' sizes, with NaN in the rows behind the last group, and each expert's weight gradient by
// itself, since a wrong one hides in a norm over all of them.
#include "moe/cuda/grouped_hopper.h"
#include "moe/cuda/launch.h"
#include "moe/one_expert.h"
#include "tests/moe/cuda/side.h"
#include "tests/moe/cuda/wgrad_cases.h"

namespace cadre::moe {
namespace {

using device::bf16;
using device::View;

template <class T>
class ExpertEntries : public BothSides<T> {
 protected:
  // The ways that this GPU and storage type have; the entries of the table choose among them.
  std::vector<std::pair<std::string, const cuda::GroupedProducts<T>*>> ways() const {
    std::vector<std::pair<std::string, const cuda::GroupedProducts<T>*>> all = {
        {"simple", &cuda::simple_products<T>()}};
    if constexpr (std::is_same_v<T, bf16>) {
      all.push_back({"ampere", &cuda::ampere_products()});
      if (cuda::compute_capability() == 90) all.push_back({"hopper", &cuda::hopper_products()});
    }
    return all;
  }
};
TYPED_TEST_SUITE(ExpertEntries, Storages);

struct Shape {
  std::vector<int64_t> sizes;  // rows of each expert
  int64_t in, out;
  int64_t rows() const { return std::accumulate(sizes.begin(), sizes.end(), int64_t(0)); }
  int64_t experts() const { return int64_t(sizes.size()); }
};
const Shape kShapes[] = {
    {{0, 1, 7, 127, 128, 129, 0, 300}, 264, 136},
    {{0, 0, 1500, 0}, 128, 264},
    {{130, 0, 75}, 1032, 136},  // a contraction so long that SwiGLU's way back is in its product's epilogue
    {{70, 0, 64, 63, 65, 3}, 72, 520},
    // More tiles than a GPU has blocks, and columns that let pairs of blocks work together.
    {{0,  129, 1, 7,  0,  64, 31, 2, 33, 5, 3, 9, 0, 17, 20, 65, 2, 4, 6, 3,
      12, 63,  1, 13, 10, 9,  0,  8, 22, 7, 6, 4, 1, 5,  13, 27, 7, 4, 9, 0},
     264,
     512},
};
constexpr int64_t kBehind = 40;  // rows behind the last group

// Rows of normals with NaN behind the last group.
template <class T>
std::vector<double> rows(const Shape& s, int64_t width, uint64_t key) {
  auto values = numbers<T>(size_t((s.rows() + kBehind) * width), key);
  std::fill(values.begin() + s.rows() * width, values.end(), std::nan(""));
  return values;
}

template <class X>
struct Inputs {
  template <class T>
  static Inputs make(Side<X>& s, const Shape& shape, T) {
    const int64_t all = shape.rows() + kBehind, e = shape.experts(), in = shape.in, out = shape.out;
    std::vector<double> offsets(1, 0);
    for (const int64_t n : shape.sizes) offsets.push_back(offsets.back() + double(n));
    return {s.template put<int64_t, 1>(offsets, {e + 1}),
            s.template put<X, 2>(rows<T>(shape, in, 1), {all, in}),
            s.template put<X, 2>(rows<T>(shape, out, 2), {all, out}),
            s.template put<X, 3>(numbers<T>(size_t(e * in * out), 3, 0.1), {e, out, in}),
            s.template put<X, 3>(numbers<T>(size_t(e * in * out), 4, 0.1), {e, out, in}),
            s.template put<X, 3>(numbers<T>(size_t(e * in * out), 5, 0.1), {e, in, out})};
  }
  View<const int64_t, 1> offsets;
  View<const X, 2> x, b;           // (A, in), (A, out)
  View<const X, 3> w, w_up, down;  // (E, out, in) twice, (E, in, out)
};

// The real rows of a result.
template <class X>
std::vector<double> real(Side<X>& s, const Shape& shape, View<X, 2> v) {
  return s.get(v.rows(0, shape.rows()));
}

// results: y, da, da accumulated, then dw of each expert, written and accumulated.
template <class T, class X, class Gemm, class Dgrad, class Wgrad>
Results all_products(Side<X>& s, const Shape& shape, const Gemm& gemm, const Dgrad& dgrad,
                     const Wgrad& wgrad) {
  const auto in = Inputs<X>::make(s, shape, T());
  const int64_t all = shape.rows() + kBehind, experts = shape.experts();
  const auto y = s.template poison<X, 2>({all, shape.out});
  const auto da = s.template poison<X, 2>({all, shape.in});
  const auto da_added = s.template put<X, 2>(numbers<T>(size_t(all * shape.in), 6), {all, shape.in});
  const auto dw = s.template poison<X, 3>({experts, shape.out, shape.in});
  const auto dw_added =
      s.template put<X, 3>(numbers<T>(size_t(dw.size()), 7), {experts, shape.out, shape.in});
  gemm(in.x, in.w, in.offsets, y);
  dgrad(in.b, in.w, in.offsets, false, da);
  dgrad(in.b, in.w, in.offsets, true, da_added);
  wgrad(in.b, in.x, in.offsets, false, dw);
  wgrad(in.b, in.x, in.offsets, true, dw_added);
  Results out = {real(s, shape, y), real(s, shape, da), real(s, shape, da_added)};
  for (int64_t e = 0; e < experts; ++e) out.push_back(s.get(dw[e]));
  for (int64_t e = 0; e < experts; ++e) out.push_back(s.get(dw_added[e]));
  return out;
}

TYPED_TEST(ExpertEntries, ProductsMatchForEveryExpertAndGroupSize) {
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    const Results cpu = this->on_cpu([&](Side<double>& s) {
      return all_products<T>(
          s, shape, [&](auto... a) { s.table.grouped_gemm(s.queue, a...); },
          [&](auto... a) { s.table.grouped_dgrad(s.queue, a...); },
          [&](auto... a) { s.table.grouped_wgrad(s.queue, a...); });
    });
    const int64_t longest = std::max({shape.in, shape.out, *std::ranges::max_element(shape.sizes)});
    for (const auto& [name, way] : this->ways()) {
      const auto body = [&, way = way](Side<T>& s) {
        const cudaStream_t stream = cuda::stream_of(s.queue);
        return all_products<T>(
            s, shape,
            [&](auto x, auto w, auto offsets, auto y) {
              way->gemm(stream, x, w, offsets.rows(0, w.dim(0)), offsets.rows(1, w.dim(0)), y);
            },
            [&](auto... a) { way->dgrad(stream, a...); }, [&](auto... a) { way->wgrad(s.queue, a...); });
      };
      const Results gpu = this->on_gpu(body);
      ASSERT_EQ(gpu.size(), cpu.size());
      for (size_t i = 0; i < gpu.size(); ++i)
        expect_close(gpu[i], cpu[i], product_bound<T>(longest),
                     fmt::format("{}, in {}, out {}, result {}", name, shape.in, shape.out, i));
      expect_same(this->on_gpu(body), gpu);
    }
  }
}

// Each group cut at a third: the second part first, then, on what that left, the first one.
TYPED_TEST(ExpertEntries, PartsOfGroupsHaveTheBitsOfTheWhole) {
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    for (const auto& [name, way] : this->ways()) {
      this->on_gpu([&, way = way, name = name](Side<T>& s) {
        const auto in = Inputs<T>::make(s, shape, T());
        const cudaStream_t stream = cuda::stream_of(s.queue);
        const int64_t all = shape.rows() + kBehind, e = shape.experts();
        std::vector<double> begins, middles, ends;
        for (const int64_t n : shape.sizes) {
          begins.push_back(ends.empty() ? 0 : ends.back());
          middles.push_back(begins.back() + double(n / 3));
          ends.push_back(begins.back() + double(n));
        }
        const auto places = [&](const std::vector<double>& v) { return s.template put<int64_t, 1>(v, {e}); };
        const auto whole = s.template poison<T, 2>({all, shape.out}),
                   parts = s.template poison<T, 2>({all, shape.out});
        way->gemm(stream, in.x, in.w, places(begins), places(ends), whole);
        way->gemm(stream, in.x, in.w, places(middles), places(ends), parts);
        const auto second = s.get(parts), expected = s.get(whole);
        for (int64_t g = 0; g < e; ++g)
          for (auto row = int64_t(begins[size_t(g)]); row < int64_t(ends[size_t(g)]); ++row)
            EXPECT_EQ(std::isnan(second[size_t(row * shape.out)]), row < int64_t(middles[size_t(g)]))
                << name << ", row " << row;
        way->gemm(stream, in.x, in.w, places(begins), places(middles), parts);
        expect_same({real(s, shape, parts)}, {real(s, shape, whole)});
        return Results{expected};
      });
    }
  }
}

TYPED_TEST(ExpertEntries, FusedFormsMatchTheirParts) {
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    const auto body = [&]<class X>(Side<X>& s) {
      using W = device::wide_t<X>;
      const auto in = Inputs<X>::make(s, shape, T());
      const int64_t all = shape.rows() + kBehind;
      const auto gate = s.template poison<X, 2>({all, shape.out}),
                 up = s.template poison<X, 2>({all, shape.out}),
                 act = s.template poison<X, 2>({all, shape.out});
      s.table.grouped_swiglu(s.queue, in.x, in.w, in.w_up, in.offsets, gate, up, act);
      Results out = {real(s, shape, gate), real(s, shape, up), real(s, shape, act)};
      // The same gate and up on both sides for the way back.
      const auto g = s.template put<X, 2>(rows<T>(shape, shape.out, 11), {all, shape.out}),
                 u = s.template put<X, 2>(rows<T>(shape, shape.out, 12), {all, shape.out}),
                 weighted = s.template poison<X, 2>({all, shape.out});
      const auto dy = s.template put<X, 2>(rows<T>(shape, shape.in, 13), {all, shape.in});
      const auto weight = s.template put<W, 1>(numbers<float>(size_t(all), 14), {all});
      const auto dweight = s.template poison<W, 1>({all});
      s.table.grouped_swiglu_backward(s.queue, dy, in.down, in.offsets, weight, g, u, weighted, dweight);
      for (const auto& v : {g, u, weighted}) out.push_back(real(s, shape, v));
      out.push_back(s.get(dweight.rows(0, shape.rows())));
      const auto dx = s.template poison<X, 2>({all, shape.in});
      s.table.grouped_dgrad_pair(s.queue, in.b, in.w, in.b, in.w_up, in.offsets, dx);
      out.push_back(real(s, shape, dx));
      return out;
    };
    const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
    // act and the gradients come from rounded gate and up, or (without fused kernels) from a rounded dL/da.
    const double once = product_bound<T>(std::max(shape.in, shape.out));
    for (size_t i = 0; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], i < 2 ? once : 3 * once, fmt::format("out {}, result {}", shape.out, i));
    expect_same(this->on_gpu(body), gpu);
  }
}

// A layer without experts: the last tile of rows is whole, has one row, or most of them; columns end inside a tile.
class OneExpertOfAllRows : public BothSides<bf16> {
 protected:
  void SetUp() override {
    BothSides<bf16>::SetUp();
    if (!IsSkipped() && cuda::compute_capability() != 90) GTEST_SKIP() << "its kernels are for sm_90 alone";
  }
  static constexpr int64_t kIn = 264, kOut[] = {136, 264, 72};

  // The numbers of a matrix, the same on both sides.
  template <class X>
  static View<X, 2> matrix(Side<X>& s, int64_t rows, int64_t width, uint64_t key) {
    return s.template put<X, 2>(numbers<bf16>(size_t(rows * width), key, 0.3), {rows, width});
  }
  template <class X>
  static View<const int64_t, 1> all_rows(Side<X>& s, int64_t rows) {
    return s.template put<int64_t, 1>({0, double(rows)}, {2});
  }
  static View<const double, 3> group(View<const double, 2> w) {
    return w.reshape<3>({1, w.dim(0), w.dim(1)});
  }
};

TEST_F(OneExpertOfAllRows, SumsOfDataGradientsMatchForOneToThreeTerms) {
  for (const int64_t rows : {128, 257, 499}) {
    for (const size_t count : {1, 2, 3}) {
      const auto terms = [&]<class X>(Side<X>& s) {
        std::vector<DgradTerm<X>> all;
        for (size_t i = 0; i < count; ++i)
          all.push_back({matrix(s, rows, kOut[i], 20 + i), matrix(s, kOut[i], kIn, 30 + i)});
        return all;
      };
      const auto gpu_body = [&](Side<bf16>& s) -> Results {
        const auto in = terms(s);
        const auto dx = s.poison<bf16, 2>({rows, kIn});
        const auto* one = one_expert<bf16>(s.queue.kind(), rows, std::array<View<const bf16, 2>, 1>{dx});
        if (one == nullptr) return {};  // and the assertion below fails
        one->dgrad(s.queue, in, dx);
        return {s.get(dx)};
      };
      const Results gpu = this->on_gpu(gpu_body);
      ASSERT_FALSE(gpu.empty()) << "one_expert() found nothing for " << rows << " rows";
      const Results cpu = this->on_cpu([&](Side<double>& s) -> Results {
        const auto dx = s.poison<double, 2>({rows, kIn});
        const auto in = terms(s);
        for (size_t i = 0; i < count; ++i)
          s.table.grouped_dgrad(s.queue, in[i].b, group(in[i].w), all_rows(s, rows), i > 0, dx);
        return {s.get(dx)};
      });
      expect_close(gpu[0], cpu[0], product_bound<bf16>(kOut[0] + kOut[1] + kOut[2]),
                   fmt::format("{} rows, {} terms", rows, count));
      expect_same(this->on_gpu(gpu_body), gpu);
    }
  }
}

TEST_F(OneExpertOfAllRows, SwiglusWayBackMatches) {
  for (const int64_t rows : {128, 257, 499}) {
    for (const int64_t width : kOut) {
      const auto inputs = [&]<class X>(Side<X>& s) {  // dy, gate, up, the matrix
        return std::array{matrix(s, rows, kIn, 42), matrix(s, rows, width, 43), matrix(s, rows, width, 44),
                          matrix(s, kIn, width, 47)};
      };
      const auto gpu_body = [&](Side<bf16>& s) -> Results {
        const auto [dy, gate, up, w_down] = inputs(s);
        const auto* one =
            one_expert<bf16>(s.queue.kind(), rows, std::array<View<const bf16, 2>, 2>{dy, gate});
        if (one == nullptr) return {};  // and the assertion below fails
        one->swiglu_backward(s.queue, dy, w_down, gate, up);
        return {s.get(gate), s.get(up)};
      };
      const Results gpu = this->on_gpu(gpu_body);
      ASSERT_FALSE(gpu.empty()) << "one_expert() found nothing for " << rows << " rows";
      const Results cpu = this->on_cpu([&](Side<double>& s) -> Results {
        const auto [dy, gate, up, w_down] = inputs(s);
        const auto out = s.poison<double, 2>({rows, width});
        const auto weight = s.put<double, 1>(std::vector<double>(size_t(rows), 1.0), {rows}),
                   dweight = s.poison<double, 1>({rows});
        s.table.grouped_swiglu_backward(s.queue, dy, group(w_down), all_rows(s, rows), weight, gate, up, out,
                                        dweight);
        return {s.get(gate), s.get(up)};
      });
      for (size_t i = 0; i < gpu.size(); ++i)
        expect_close(gpu[i], cpu[i], product_bound<bf16>(kIn),
                     fmt::format("{} rows, width {}, result {}", rows, width, i));
      expect_same(this->on_gpu(gpu_body), gpu);
    }
  }
}

// One block at a time and pairs of them, fewer tiles than blocks and more than two waves.
TEST_F(OneExpertOfAllRows, WeightGradientsOfSeveralLayersMatch) {
  expect_wgrads_match(*this, {{{{136, 264}}, 128},
                              {{{264, 72}, {72, 520}, {392, 264}, {8, 8}}, 193},
                              {{{256, 264}, {512, 72}, {768, 520}}, 257},
                              {{{1024, 2816}, {2816, 1024}, {2816, 1032}}, 200},
                              {{{2688, 1032}, {1024, 2816}, {2816, 1024}}, 130}});
}

// Two halves of a layer go together, and odd widths and layers that fill the GPU by themselves do not.
TEST_F(OneExpertOfAllRows, WeightGradientsGoTogetherWhereThatIsBetter) {
  const int blocks = cuda::multiprocessors();
  const auto together = [&](int64_t rows, const std::vector<std::array<int64_t, 2>>& shapes) {
    bool done = false;
    this->on_gpu([&](Side<bf16>& s) -> Results {
      const auto layers = wgrad_layers(s, {shapes, rows});
      std::vector<View<const bf16, 2>> operands;
      for (const auto& layer : layers) operands.insert(operands.end(), {layer.b, layer.a, layer.dw});
      const auto* one = one_expert<bf16>(s.queue.kind(), rows, operands);
      done = one != nullptr && one->wgrads(s.queue, layers, true);
      return {};
    });
    return done;
  };
  const int64_t half_wave = 128 * (blocks / 2);
  EXPECT_TRUE(together(128, {{half_wave, 256}, {half_wave, 256}}));
  EXPECT_FALSE(together(127, {{half_wave, 256}, {half_wave, 256}}));
  EXPECT_FALSE(together(128, {{half_wave, 255}, {half_wave, 256}}));
  EXPECT_FALSE(together(128, {{half_wave, 256}}));
  EXPECT_FALSE(together(128, {{128 * blocks, 256}, {128 * blocks, 256}}));
}

// Rows that are no whole units of 16 bytes must not reach the kernels that need them.
TYPED_TEST(ExpertEntries, OddWidthsAndBasesAreRight) {
  using T = TypeParam;
  const Shape shape{{5, 0, 130}, 13, 37};
  const auto body = [&]<class X>(Side<X>& s) {
    return all_products<T>(
        s, shape, [&](auto... a) { s.table.grouped_gemm(s.queue, a...); },
        [&](auto... a) { s.table.grouped_dgrad(s.queue, a...); },
        [&](auto... a) { s.table.grouped_wgrad(s.queue, a...); });
  };
  const Results gpu = this->on_gpu(body), cpu = this->on_cpu(body);
  for (size_t i = 0; i < gpu.size(); ++i)
    expect_close(gpu[i], cpu[i], product_bound<T>(130), fmt::format("result {}", i));
}

}  // namespace
}  // namespace cadre::moe
