// The kernels of a layer of experts in a pass of generation, and weight gradients of several layers, compiled for the host
// and run on emulated blocks (tests/device/cuda/emulated), against the CPU's in double. Needs no GPU, only CUDA's headers.
#include <cuda_runtime.h>

#include "moe/cuda/few_logits.h"
#include "moe/cuda/grouped_hopper.h"
#include "moe/cuda/launch.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "tests/moe/cuda/pass_case.h"
#include "tests/moe/cuda/rank_slot_cases.h"
#include "tests/moe/cuda/router_cases.h"
#include "tests/moe/cuda/wgrad_cases.h"

namespace cadre::moe {

namespace cuda {

cudaStream_t stream_of(device::Queue&) {
  return nullptr;
}
std::byte* scratch_of(device::Queue&, size_t bytes) {
  return emulated::take_memory(bytes);
}
int32_t* g_claims = nullptr;
int32_t* tile_claims(cudaStream_t) {
  return g_claims;
}
int multiprocessors() {
  return 5;  // fewer than there are tiles
}
void check_experts(int64_t) {}

}  // namespace cuda

namespace {

using device::bf16;
using device::Queue;
using device::View;

template <class T>
MoeKernels<T> emulated_kernels() {
  MoeKernels<T> table{};
  cuda::add_choice_entries(table);
  cuda::add_score_entries(table);
  cuda::add_route_entries(table);
  cuda::add_slot_entries(table);
  cuda::add_rank_slot_entries(table);
  cuda::add_row_entries(table);
  if constexpr (std::is_same_v<T, bf16>) {
    table.router_linear = [](Queue&, View<const T, 2> x, View<const T, 2> w, View<float, 2> logits) {
      EXPECT_TRUE(cuda::logits_of_few(nullptr, cuda::native(x.data()), cuda::native(w.data()), x.dim(0),
                                      int(x.dim(1)), w.dim(0), logits.data()));
    };
    table.expect_swiglu = [](Queue&, int64_t rows, View<const T, 3> w_gate, View<const T, 3> w_up) {
      cuda::hopper_expect_swiglu(nullptr, rows, w_gate, w_up);
    };
    table.grouped_swiglu = [](Queue&, View<const T, 2> x, View<const T, 3> w_gate, View<const T, 3> w_up,
                              View<const int64_t, 1> offsets, View<T, 2> gate, View<T, 2> up,
                              View<T, 2> act) {
      cuda::hopper_swiglu(nullptr, x, w_gate, w_up, offsets, gate, up, act);
    };
    table.grouped_gemm = [](Queue&, View<const T, 2> a, View<const T, 3> w, View<const int64_t, 1> offsets,
                            View<T, 2> y) {
      cuda::hopper_products().gemm(nullptr, a, w, offsets.rows(0, w.dim(0)), offsets.rows(1, w.dim(0)), y);
    };
    table.grouped_gemm_between = [](Queue&, View<const T, 2> a, View<const T, 3> w,
                                    View<const int64_t, 1> begins, View<const int64_t, 1> ends,
                                    View<T, 2> y) {
      cuda::hopper_products().gemm(nullptr, a, w, begins, ends, y);
    };
  }
  return table;
}

template <class T>
class RoutersEmulated : public testing::Test {
 protected:
  void TearDown() override { emulated::free_memory(); }

 public:
  template <class Body>
  Results on_cpu(const Body& body) {
    Side<double> side(cpu_queue_, cpu_moe_kernels<double>());
    return body(side);
  }
  template <class Body>
  Results on_gpu(const Body& body) {
    emulated::free_memory();
    static const MoeKernels<T> kTable = emulated_kernels<T>();
    Side<T> side(queue_, kTable, emulated::take_memory);
    return body(side);
  }

 private:
  device::CpuQueue cpu_queue_{1};
  emulated::EmulatedQueue queue_;
};
TYPED_TEST_SUITE(RoutersEmulated, Storages);

TYPED_TEST(RoutersEmulated, TopKRoutersChooseAndDifferentiateAsOnTheCpu) {
  expect_top_k_routers_match(*this, {30});
}
TYPED_TEST(RoutersEmulated, RoutesHaveTheBitsOfTheirSteps) {
  expect_routes_have_the_bits_of_their_steps(*this);
}
TYPED_TEST(RoutersEmulated, SlotsOfFewAndOfManyTokens) {
  expect_slots_match(*this, {1, 31, 64, 1024, 1025});
}
TYPED_TEST(RoutersEmulated, RowsAreGatheredAndSummed) {
  expect_rows_match<TypeParam>(*this);
}

TYPED_TEST(RoutersEmulated, SlotsOfSeveralRanks) {
  expect_rank_slots_match<TypeParam>(*this);
}

class WgradsEmulated : public RoutersEmulated<bf16> {};

// Rows that fill the last 64, or do not; taller and wider matrices; tiles that end outside; more tiles than blocks.
TEST_F(WgradsEmulated, SeveralLayersAtOnceEqualTheCpus) {
  expect_wgrads_match(*this, {{{{136, 264}}, 64}, {{{264, 72}, {72, 520}, {392, 264}, {8, 8}}, 193}});
}

// Blocks that claim their tiles make the same ones, and leave the counters as they were.
TEST_F(WgradsEmulated, ClaimedTilesHaveTheSameBits) {
  const int64_t rows = 470, inner = 72, outer = 520;
  const std::vector<int64_t> offsets = {0, 200, 200, 470};
  const auto numbers = [](int64_t count, uint64_t seed) {
    auto* to = reinterpret_cast<bf16*>(emulated::take_memory(size_t(count) * sizeof(bf16)));
    const base::Philox random(seed);
    for (int64_t i = 0; i < count; ++i) to[i] = bf16(float(random.normal(uint64_t(i))));
    return to;
  };
  const View<const bf16, 2> a(numbers(rows * inner, 1), {rows, inner}),
      b(numbers(rows * outer, 3), {rows, outer});
  const View<const bf16, 3> w(numbers(3 * outer * inner, 2), {3, outer, inner});
  const View<const int64_t, 1> groups(offsets.data(), {4});
  int32_t counters[2] = {0, 0};
  std::vector<std::vector<uint16_t>> results;
  for (int32_t* claims : {static_cast<int32_t*>(nullptr), counters}) {
    cuda::g_claims = claims;
    const View<bf16, 2> y(numbers(rows * outer, 4), {rows, outer}),
        dw(numbers(outer * inner, 5), {outer, inner});
    cuda::hopper_products().gemm(nullptr, a, w, groups.rows(0, 3), groups.rows(1, 3), y);
    const Wgrad<bf16> layers[] = {{b, a, dw}};
    cuda::hopper_wgrads(nullptr, layers, false);
    cuda::hopper_products().gemm(nullptr, a, w, groups.rows(0, 3), groups.rows(1, 3),
                                 y);  // again, with the counters of before
    for (const auto view : {y.reshape<1>({y.size()}), dw.reshape<1>({dw.size()})}) {
      const auto* bits = reinterpret_cast<const uint16_t*>(view.data());
      results.emplace_back(bits, bits + view.size());
    }
    EXPECT_EQ(counters[0], 0);
    EXPECT_EQ(counters[1], 0);
  }
  cuda::g_claims = nullptr;
  EXPECT_EQ(results[0], results[2]);
  EXPECT_EQ(results[1], results[3]);
}

// A GPU of 132 multiprocessors.
TEST(Wgrads, GoTogetherWhereTheyFillMoreOfFewerWaves) {
  const auto gain = [](const std::vector<std::array<int64_t, 2>>& layers) {
    std::vector<Wgrad<bf16>> all;
    for (const auto& shape : layers) all.push_back({{}, {}, {nullptr, shape}});
    return cuda::fill_waves_together(all, 132);
  };
  EXPECT_TRUE(gain({{1024, 1024}, {1024, 1024}, {1024, 1024}, {1024, 1024}}));  // 128 tiles for 4 waves' 32
  EXPECT_TRUE(gain({{1024, 2816}, {2816, 1024}, {2816, 1024}}));                // 2 waves for 3 of 88 tiles
  EXPECT_FALSE(gain({{1024, 1024}, {1024, 1024}, {1024, 1024}}));  // a quarter of the wave is empty
  EXPECT_FALSE(gain({{2048, 2048}, {2048, 2048}, {2048, 2048}, {2048, 2048}}));  // each is a wave
  EXPECT_FALSE(gain({{768, 2048}, {2048, 768}, {2048, 768}}));                   // 144 tiles
}

class PassEmulated : public RoutersEmulated<bf16> {};

// Groups cut at a third, with the second parts first: the rows before stay until their turn.
TEST_F(PassEmulated, PartsOfGroupsHaveTheBitsOfTheWhole) {
  on_gpu([](Side<bf16>& s) {
    constexpr int64_t kRows = 400, kIn = 136, kOut = 264;
    const auto x = s.put<bf16, 2>(numbers<bf16>(kRows * kIn, 1), {kRows, kIn});
    const auto w = s.put<bf16, 3>(numbers<bf16>(3 * kOut * kIn, 2, 0.1), {3, kOut, kIn});
    const auto offsets = s.put<int64_t, 1>({0, 150, 150, 390}, {4}),
               middles = s.put<int64_t, 1>({50, 150, 230}, {3});
    const auto whole = s.poison<bf16, 2>({kRows, kOut}), parts = s.poison<bf16, 2>({kRows, kOut});
    s.table.grouped_gemm(s.queue, x, w, offsets, whole);
    s.table.grouped_gemm_between(s.queue, x, w, middles, offsets.rows(1, 3), parts);
    const auto second = s.get(parts);
    EXPECT_TRUE(std::isnan(second[49 * kOut]) && !std::isnan(second[50 * kOut]));
    EXPECT_TRUE(std::isnan(second[229 * kOut]) && !std::isnan(second[230 * kOut]));
    s.table.grouped_gemm_between(s.queue, x, w, offsets.rows(0, 3), middles, parts);
    expect_same({s.get(parts)}, {s.get(whole)});
    return Results{};
  });
}

TEST_F(PassEmulated, ALayerEqualsTheCpus) {
  const auto body = [](auto& side) {
    return rounds_of_a_layer<bf16>(
        side, 1, [] {}, [](const auto& pass) { pass(); });
  };
  const Results emulated = on_gpu(body), cpu = on_cpu(body);
  ASSERT_EQ(emulated.size(), cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i)
    expect_close(emulated[i], cpu[i], i % 2 == 0 ? 3 * product_bound<bf16>(136) : 0,
                 fmt::format("result {}", i));
}

}  // namespace
}  // namespace cadre::moe
