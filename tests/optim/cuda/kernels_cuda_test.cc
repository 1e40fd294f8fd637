// CUDA's optimizer kernels against the CPU's in double, and their random rounding.
#include "optim/cuda/kernels_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "parallel/base/rng.h"
#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/memory.h"
#include "parallel/device/transfer.h"

namespace cadre::optim {
namespace {

using device::bf16;
using device::View;

// Numbers on the GPU, `shift` elements behind an aligned address.
template <class T>
class OnGpu {
 public:
  OnGpu(device::Queue& queue, const std::vector<T>& host, int64_t shift = 0)
      : queue_(queue),
        memory_(device::DeviceKind::kCuda, (host.size() + size_t(shift)) * sizeof(T)),
        view_(reinterpret_cast<T*>(memory_.data()) + shift, {int64_t(host.size())}) {
    device::upload<T>(queue, host, view_);
  }
  View<T, 1> view() const { return view_; }
  std::vector<T> read() const {
    std::vector<T> host(size_t(view_.size()));
    device::download<T>(queue_, view_, host);
    queue_.wait();
    return host;
  }

 private:
  device::Queue& queue_;
  device::Buffer memory_;
  View<T, 1> view_;
};

template <class T>
std::vector<T> normal(int64_t n, uint64_t seed, double scale, bool positive = false) {
  const base::Philox rng(seed);
  std::vector<T> values;
  for (int64_t i = 0; i < n; ++i) {
    const double x = scale * rng.normal(uint64_t(i));
    values.push_back(T(positive ? std::abs(x) : x));
  }
  return values;
}
template <class T>
std::vector<double> widened(const std::vector<T>& from) {
  return {from.begin(), from.end()};
}
// Sums that happen to be small have the errors of their terms, which are about `size`.
template <class T>
void expect_near(const std::vector<T>& found, const std::vector<double>& exact, double relative,
                 const char* what, double size = 0.1) {
  ASSERT_EQ(found.size(), exact.size());
  for (size_t i = 0; i < exact.size(); ++i)
    ASSERT_NEAR(double(found[i]), exact[i], relative * (std::abs(exact[i]) + size))
        << what << " element " << i;
}

AdamWStep a_step() {
  return {.lr = 1e-2,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-8,
          .weight_decay = 0.1,
          .grad_scale = 0.5,
          .correction1 = 0.3,
          .correction2 = 0.2,
          .stochastic = false,
          .seed = 7,
          .first = 1000};
}

template <class T>
class CudaOptim : public testing::Test {
 protected:
  void SetUp() override {
    const device::Probe probe = device::cuda::accelerator_cuda().probe();
    if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  }
};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(CudaOptim, Types);

template <class T>
void compare_adamw(device::Queue& queue, int64_t n, int64_t shift, bool summed) {
  constexpr bool kSame = std::is_same_v<T, float>;
  const auto grad = normal<T>(n, 1, 1);
  const auto sum = normal<float>(n, 2, 1), master = normal<float>(n, 3, 1), m = normal<float>(n, 4, 0.1),
             v = normal<float>(n, 5, 0.1, true);
  auto g = summed ? widened(sum) : widened(grad), p = widened(master), a = widened(m), b = widened(v);
  const auto whole = [](std::vector<double>& x) { return View<double, 1>(x.data(), {int64_t(x.size())}); };
  device::CpuQueue cpu(1);
  cpu_optim_kernels<double>().adamw(cpu, a_step(),
                                    {whole(g), {}, whole(p), whole(p), whole(a), whole(b), {}, {}});
  const OnGpu<T> gpu_grad(queue, grad, shift), gpu_value(queue, std::vector<T>(size_t(n), T(0.0f)), shift);
  const OnGpu<float> gpu_sum(queue, sum, shift), gpu_master(queue, master, shift), gpu_m(queue, m, shift),
      gpu_v(queue, v, shift);
  AdamWTensors<T> tensors{
      gpu_grad.view(), {}, gpu_value.view(), gpu_master.view(), gpu_m.view(), gpu_v.view(), {}, {}};
  if (summed) tensors.grad_sum = gpu_sum.view();
  if constexpr (kSame) tensors.value = gpu_master.view();
  cuda_optim_kernels<T>().adamw(queue, a_step(), tensors);
  const auto new_master = gpu_master.read();
  expect_near(new_master, p, 2e-6, "master");
  expect_near(gpu_m.read(), a, 2e-6, "m");
  expect_near(gpu_v.read(), b, 2e-6, "v");
  if constexpr (!kSame) {
    const auto value = gpu_value.read();
    for (size_t i = 0; i < value.size(); ++i) ASSERT_EQ(value[i], T(new_master[i])) << i;
  }
}

TYPED_TEST(CudaOptim, AdamWEqualsTheCpuInDoubleAtAnyAlignment) {
  device::cuda::CudaQueue queue(0);
  for (const int64_t n : {1, 7, 1000, 100003}) {
    for (const int64_t shift : {0, 1}) {
      for (const bool summed : {false, true}) compare_adamw<TypeParam>(queue, n, shift, summed);
    }
  }
}

TYPED_TEST(CudaOptim, RandomRoundingIsANeighbourUnbiasedAndAFunctionOfThePlace) {
  device::cuda::CudaQueue queue(0);
  const int64_t n = 1 << 16;
  const std::vector<TypeParam> grad(size_t(n), TypeParam(1.0f));
  const std::vector<bf16> moment(size_t(n), bf16(0.5f));
  const double exact_m = 0.9 * 0.5 + 0.1 * 0.5, exact_v = 0.95 * 0.5 + 0.05 * 0.25;
  const auto run = [&](int64_t begin) {  // of the whole, from element `begin`
    const OnGpu<TypeParam> g(queue, grad), value(queue, grad);
    const OnGpu<float> master(queue, std::vector<float>(size_t(n), 1.0f));
    const OnGpu<bf16> m(queue, moment), v(queue, moment);
    const auto part = [&](auto view) { return view.rows(begin, n - begin); };
    AdamWStep step = a_step();
    step.first += begin;
    AdamWTensors<TypeParam> tensors{
        part(g.view()), {}, part(value.view()), part(master.view()), {}, {}, part(m.view()), part(v.view())};
    cuda_optim_kernels<TypeParam>().adamw(queue, step, tensors);
    return std::pair(m.read(), v.read());
  };
  const auto [m, v] = run(0);
  const auto [m_again, v_again] = run(3);
  double mean_m = 0, mean_v = 0;
  for (int64_t i = 0; i < n; ++i) {
    ASSERT_TRUE(i < 3 || m[size_t(i)] == m_again[size_t(i)]) << i;
    ASSERT_NEAR(double(float(v[size_t(i)])), exact_v, 0x1p-8);
    mean_m += double(float(m[size_t(i)])) / double(n);
    mean_v += double(float(v[size_t(i)])) / double(n);
  }
  // A standard deviation of the mean is below 2^-9 / 2^8.
  EXPECT_NEAR(mean_m, exact_m, 0x1p-15);
  EXPECT_NEAR(mean_v, exact_v, 0x1p-15);
}

// Both devices take the same random words. The sums before the rounding differ in the last bits of float, which changes
// the side in one of 2^13 cases or so.
TEST(CudaOptimFloat, RandomRoundingIsTheCpus) {
  const device::Probe probe = device::cuda::accelerator_cuda().probe();
  if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  device::cuda::CudaQueue queue(0);
  device::CpuQueue cpu(1);
  const int64_t n = 100003;
  auto grad = normal<float>(n, 1, 1), master = normal<float>(n, 3, 1);
  auto m = normal<bf16>(n, 4, 0.1), v = normal<bf16>(n, 5, 0.1, true);
  const OnGpu<float> gpu_grad(queue, grad), gpu_master(queue, master);
  const OnGpu<bf16> gpu_m(queue, m), gpu_v(queue, v);
  cuda_optim_kernels<float>().adamw(
      queue, a_step(),
      {gpu_grad.view(), {}, gpu_master.view(), gpu_master.view(), {}, {}, gpu_m.view(), gpu_v.view()});
  const auto whole = [](auto& x) {
    return View<typename std::decay_t<decltype(x)>::value_type, 1>(x.data(), {int64_t(x.size())});
  };
  cpu_optim_kernels<float>().adamw(
      cpu, a_step(), {whole(grad), {}, whole(master), whole(master), {}, {}, whole(m), whole(v)});
  expect_near(gpu_master.read(), widened(master), 2e-6, "master");
  for (const auto& [found, expected] : {std::pair{gpu_m.read(), m}, {gpu_v.read(), v}}) {
    int64_t other = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(float(found[i]), float(expected[i]), 0x1p-7 * std::abs(float(expected[i])) + 1e-30) << i;
      other += found[i] != expected[i];
    }
    EXPECT_LT(other, n / 1000);
  }
}

// The kinds of v: in float, in bf16, none.
TYPED_TEST(CudaOptim, PreconditionEqualsTheCpuInDouble) {
  device::cuda::CudaQueue queue(0);
  device::CpuQueue cpu(1);
  for (const int64_t n : {1, 7, 1000, 100003}) {
    for (const int64_t shift : {0, 1}) {
      for (int kind = 0; kind < 3; ++kind) {
        const auto grad = normal<float>(n, 1, 1), v = normal<float>(n, 2, 1e-4, true);
        const auto narrow = normal<bf16>(n, 2, 1e-4, true);
        const OnGpu<float> gpu_grad(queue, grad, shift), gpu_v(queue, v, shift), gpu_out(queue, grad, shift);
        const OnGpu<bf16> gpu_narrow(queue, narrow, shift);
        const View<float, 1> wide_v = kind == 0 ? gpu_v.view() : View<float, 1>();
        const View<bf16, 1> narrow_v = kind == 1 ? gpu_narrow.view() : View<bf16, 1>();
        cuda_optim_kernels<TypeParam>().precondition(queue, 0.2, 1e-8, wide_v, narrow_v, gpu_grad.view(),
                                                     gpu_out.view());
        const std::vector<double> g = widened(grad), moments = kind == 1 ? widened(narrow) : widened(v);
        std::vector<double> exact(g.size());
        cpu_optim_kernels<double>().precondition(
            cpu, 0.2, 1e-8, kind == 2 ? View<const double, 1>() : View<const double, 1>(moments.data(), {n}),
            {}, {g.data(), {n}}, {exact.data(), {n}});
        expect_near(gpu_out.read(), exact, 2e-6, "preconditioned");
      }
    }
  }
}

TYPED_TEST(CudaOptim, AddSquaresIsExactToFloatAndRepeats) {
  device::cuda::CudaQueue queue(0);
  for (const int64_t n : {1, 9, 4099, 3000001}) {
    const auto host = normal<TypeParam>(n, 1, 2);
    double exact = 1;
    for (const TypeParam x : host) exact += double(x) * double(x);
    std::vector<double> sums;
    for (const int64_t shift : {0, 0, 1}) {
      const OnGpu<TypeParam> x(queue, host, shift);
      const OnGpu<double> sum(queue, {1.0});
      cuda_optim_kernels<TypeParam>().add_squares(queue, x.view(), sum.view());
      sums.push_back(sum.read()[0]);
      EXPECT_NEAR(sums.back(), exact, 1e-6 * exact) << n;
    }
    EXPECT_EQ(sums[0], sums[1]);
  }
}

TYPED_TEST(CudaOptim, MuonsKernelsEqualTheCpuInDouble) {
  device::cuda::CudaQueue queue(0);
  device::CpuQueue cpu(1);
  const auto whole = [](std::vector<double>& x) { return View<double, 1>(x.data(), {int64_t(x.size())}); };
  const double rounding = std::is_same_v<TypeParam, float> ? 2e-6 : 0x1p-8;
  const int64_t n = 5003;
  const auto grad = normal<TypeParam>(n, 1, 1);
  const auto start = normal<float>(n, 2, 1);
  for (const bool nesterov : {false, true}) {
    auto g = widened(grad), m = widened(start);
    std::vector<double> x(g.size()), master = widened(start);
    cpu_optim_kernels<double>().momentum(cpu, 0.95, nesterov, 0.5, whole(g), {}, whole(m), whole(x));
    const OnGpu<TypeParam> gpu_grad(queue, grad), gpu_x(queue, grad), gpu_value(queue, grad);
    const OnGpu<float> gpu_m(queue, start), gpu_master(queue, start);
    const auto& kernels = cuda_optim_kernels<TypeParam>();
    kernels.momentum(queue, 0.95, nesterov, 0.5, gpu_grad.view(), {}, gpu_m.view(), gpu_x.view());
    expect_near(gpu_m.read(), m, 2e-6, "momentum");
    expect_near(gpu_x.read(), x, rounding, "x");
    x = widened(gpu_x.read());
    cpu_optim_kernels<double>().normalize(cpu, whole(x));
    kernels.normalize(queue, gpu_x.view());
    expect_near(gpu_x.read(), x, rounding, "normalized", 1e-4);
    x = widened(gpu_x.read());
    cpu_optim_kernels<double>().subtract(cpu, 0.9, 0.3, whole(x), whole(master), whole(master));
    if constexpr (std::is_same_v<TypeParam, float>) {
      kernels.subtract(queue, 0.9, 0.3, gpu_x.view(), gpu_master.view(), gpu_master.view());
    } else {
      kernels.subtract(queue, 0.9, 0.3, gpu_x.view(), gpu_value.view(), gpu_master.view());
      expect_near(gpu_value.read(), master, rounding, "value");
    }
    expect_near(gpu_master.read(), master, 2e-6, "master");
  }
}

}  // namespace
}  // namespace cadre::optim
