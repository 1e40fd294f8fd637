// The whole MoE layer on the GPU beside the CPU, in fp32 on the same parameters: every router and balance loss,
// with padding, shared experts and capacity.
#include <optional>

#include "parallel/comm/transports.h"
#include "parallel/device/accelerator.h"
#include "tests/moe/layer_cases.h"

namespace cadre::moe {
namespace {

class CudaLayer : public testing::TestWithParam<LayerCase> {};

struct Answers {
  std::vector<float> y, dx, dense_grads, expert_grads;
  std::vector<double> tokens;
  double dropped = 0, losses = 0;
};

constexpr int64_t kSeqLen = 4;

Answers on_cpu(LayerRig<float>& rig, const std::vector<float>& x, const std::vector<int32_t>& segment,
               const std::vector<float>& dy) {
  Answers a;
  a.y = rig.forward(x, segment);
  a.dx = rig.backward(x, segment, dy, counts_of(segment, kSeqLen));
  const auto dense = rig.params.store->grads(device::Group::kDense),
             expert = rig.params.store->grads(device::Group::kExpert);
  a.dense_grads.assign(dense.begin(), dense.end());
  a.expert_grads.assign(expert.begin(), expert.end());
  const MoeStats stats = rig.layer.stats();
  a.tokens = stats.expert_tokens;
  a.dropped = stats.dropped;
  a.losses = stats.aux_loss + stats.z_loss;
  return a;
}

template <class U>
device::View<U, 1> to_gpu(device::Queue& queue, device::Buffer& memory, const std::vector<U>& host) {
  memory = device::Buffer(device::DeviceKind::kCuda, host.size() * sizeof(U));
  queue.upload(host.data(), memory.data(), host.size() * sizeof(U));
  return {reinterpret_cast<U*>(memory.data()), {int64_t(host.size())}};
}
std::vector<float> from_gpu(device::Queue& queue, device::View<float, 1> view) {
  std::vector<float> host(size_t(view.size()));
  queue.download(view.data(), host.data(), host.size() * sizeof(float));
  queue.wait();
  return host;
}

Answers on_gpu(device::Queue& queue, LayerRig<float>& rig, const char* config, const std::vector<float>& x,
               const std::vector<int32_t>& segment, const std::vector<float>& dy) {
  using device::DeviceKind;
  const int64_t tokens = int64_t(segment.size());
  const std::array<int64_t, 2> rows = {tokens, rig.dim};
  MoeLayer<float> layer(moe_config(config), {.queue = &queue,
                                             .kernels = &device::device_kernels<float>(DeviceKind::kCuda),
                                             .mesh = &rig.mesh,
                                             .dim = rig.dim,
                                             .max_tokens = tokens,
                                             .seq_len = kSeqLen});
  device::ParamTable table;
  layer.declare(table, "layers.0.moe", 0);
  const device::ParamLayout layout(table, 1, 0);
  device::ParamStore<float> store(layout, DeviceKind::kCuda);
  for (const auto group : {device::Group::kDense, device::Group::kExpert}) {
    const auto values = rig.params.store->values(group);
    store.set(queue, group, 0, {values.data(), size_t(values.size())});
  }
  layer.bind(store);
  device::Arena saved("saved", DeviceKind::kCuda), scratch("scratch", DeviceKind::kCuda);
  layer.reserve(saved, scratch);
  saved.allocate();
  scratch.allocate();
  scratch.release(0);
  layer.reserve(saved, scratch);
  device::Buffer memory[5];
  const auto x_gpu = to_gpu(queue, memory[0], x), dy_gpu = to_gpu(queue, memory[1], dy),
             y = to_gpu(queue, memory[2], std::vector<float>(x.size(), 99)),
             dx = to_gpu(queue, memory[3], std::vector<float>(x.size(), 99));
  const auto segment_gpu = to_gpu(queue, memory[4], segment);
  layer.begin_step();
  store.start_grads(queue);
  layer.forward(x_gpu.reshape<2>(rows), segment_gpu, real_tokens(segment), y.reshape<2>(rows), true);
  layer.backward(x_gpu.reshape<2>(rows), segment_gpu, dy_gpu.reshape<2>(rows), counts_of(segment, kSeqLen),
                 dx.reshape<2>(rows), nullptr);
  Answers a{from_gpu(queue, y),
            from_gpu(queue, dx),
            from_gpu(queue, store.grads(device::Group::kDense)),
            from_gpu(queue, store.grads(device::Group::kExpert)),
            {},
            0,
            0};
  const MoeStats stats = layer.stats();
  a.tokens = stats.expert_tokens;
  a.dropped = stats.dropped;
  a.losses = stats.aux_loss + stats.z_loss;
  return a;
}

// Sums of at most some dozens of terms, through a softmax and a silu, in fp32 on both sides.
void expect_alike(const std::vector<float>& gpu, const std::vector<float>& cpu, const char* what) {
  ASSERT_EQ(gpu.size(), cpu.size()) << what;
  double top = 0;
  for (const float v : cpu) top = std::max(top, double(std::abs(v)));
  for (size_t i = 0; i < cpu.size(); ++i) ASSERT_NEAR(gpu[i], cpu[i], 0x1p-17 * top) << what << " " << i;
}

TEST_P(CudaLayer, MatchesTheCpuForwardsAndBackwards) {
  const auto& gpu = device::accelerator(device::DeviceKind::kCuda);
  if (gpu.probe().num_devices == 0) GTEST_SKIP() << gpu.probe().report;
  comm::run_threads(1, [&](comm::World& world) {
    const auto queue = gpu.make_queue(0);
    LayerRig<float> rig(world, 1, GetParam().text);
    const auto segment = some_padding();
    const auto x = normals<float>(segment.size() * size_t(rig.dim), 3),
               dy = normals<float>(segment.size() * size_t(rig.dim), 4);
    const Answers a = on_gpu(*queue, rig, GetParam().text, x, segment, dy), b = on_cpu(rig, x, segment, dy);
    expect_alike(a.y, b.y, "y");
    expect_alike(a.dx, b.dx, "dx");
    expect_alike(a.dense_grads, b.dense_grads, "gradients");
    expect_alike(a.expert_grads, b.expert_grads, "experts' gradients");
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.dropped, b.dropped);
    EXPECT_NEAR(a.losses, b.losses, 1e-5 * (1 + std::abs(b.losses)));
  });
}
INSTANTIATE_TEST_SUITE_P(Cases, CudaLayer, testing::ValuesIn(kLayerCases), layer_case_name);

}  // namespace
}  // namespace cadre::moe
