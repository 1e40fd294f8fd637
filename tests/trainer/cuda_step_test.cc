// What a step on a GPU does beside numbers: how much work it queues, how often the host waits, what memory it takes.
#include <cuda_runtime_api.h>

#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "tests/trainer/cuda_fixture.h"
#include "trainer/run/bench.h"

namespace cadre::trainer {
namespace {

using device::cuda::check;
using testing::kBf16;
using testing::Overrides;
using testing::with;

class CudaStep : public testing::CudaTest {};

device::cuda::CudaQueue& queue_of(TrainState& state) {
  return static_cast<device::cuda::CudaQueue&>(state.model.queue);
}

// The nodes of the graph that a forward and backward pass make when they are captured instead of run. A wait of the host
// or an allocation would make the capture fail.
size_t captured_nodes(TrainState& state, const data::LoadedBatch& batch) {
  const Batch& micro = batch.micro.at(0);
  device::cuda::CudaQueue& queue = queue_of(state);
  LogProbs<Real> logp;
  std::vector<Real> dlogp(size_t(micro.num_tokens()), -1.0f / float(micro.num_tokens()));
  queue.wait();
  check(cudaStreamBeginCapture(queue.stream(), cudaStreamCaptureModeThreadLocal));
  state.model.store.start_grads(queue);
  state.model.decoder.begin_step();
  state.model.decoder.start_forward(micro, true, logp);
  state.model.decoder.backward({dlogp.data(), {micro.num_tokens()}}, batch.counts,
                               [&](int bucket) { state.model.store.collect_grads(queue, bucket, true); });
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(queue.stream(), &graph));
  queue.wait();  // forgets the downloads, which were not made
  size_t nodes = 0;
  check(cudaGraphGetNodes(graph, nullptr, &nodes));
  check(cudaGraphDestroy(graph));
  return nodes;
}

std::vector<size_t> nodes_of_steps(const Overrides& overrides, int steps) {
  const Dataset dataset = testing::tiny_dataset();
  std::vector<size_t> counts;
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(testing::tiny_run(with(kBf16, overrides)), dataset, world);
    for (int i = 0; i < 2; ++i) train_step(state, {});  // scratch and plans are there after them
    for (int i = 0; i < steps; ++i) counts.push_back(captured_nodes(state, state.feed.next(state.progress)));
  });
  return counts;
}

TEST_F(CudaStep, QueuesTheSameBoundedWorkWhateverTheRouting) {
  const Overrides whole = {"train.micro_batch=8", "data.mask_documents=false"};
  const auto counts = nodes_of_steps(whole, 4);
  for (const size_t n : counts) EXPECT_EQ(n, counts[0]) << "another batch, another routing, the same work";
  const auto deeper = nodes_of_steps(with(whole, {"model.layers=4"}), 1);
  const auto wider = nodes_of_steps(with(whole, {"moe.num_experts=32", "moe.top_k=4"}), 1);
  std::printf(
      "kernels, copies and fills of a forward and backward pass: %zu with 2 layers of experts, %zu with 3\n",
      counts[0], deeper[0]);
  EXPECT_LE(deeper[0] - counts[0], 80u) << "a layer with experts";
  EXPECT_LE(wider[0], counts[0] + 14) << "2 layers have 28 experts more each, and not a kernel for each";
}

TEST_F(CudaStep, HostWaitsOnceAStepOrOnceMoreAMicroBatchForAnObjectiveThatNeedsIt) {
  const Dataset dataset = testing::tiny_dataset();
  for (const int micro : {1, 2, 8}) {
    comm::run_threads(1, [&](comm::World& world) {
      TrainState state(testing::tiny_run(with(kBf16, {fmt::format("train.micro_batch={}", micro)})), dataset,
                       world);
      for (int i = 0; i < 2; ++i) train_step(state, {});
      std::vector<int64_t> waits;
      for (int i = 0; i < 4; ++i) {
        const int64_t before = queue_of(state).waits();
        train_step(state, {});
        waits.push_back(queue_of(state).waits() - before);
      }
      for (const int64_t n : waits) EXPECT_EQ(n, waits[0]);
      EXPECT_LE(waits[0], 3)
          << "log-probabilities, gradient norm and layers' sums, however many micro-batches";
      std::printf("micro-batches of %d: the host waits %d times a step\n", micro, int(waits[0]));
    });
  }
}

// All but little of the GPU's memory is taken, as by another program.
TEST_F(CudaStep, TooLittleMemoryIsAUsageErrorWithTheNearestThatFits) {
  const Overrides big =
      with(kBf16, {"model.vocab=40", "data.seq_len=2048", "train.global_batch=64", "train.micro_batch=64",
                   "model.dim=512", "model.heads=8", "model.kv_heads=8", "model.layers=8"});
  const Dataset dataset = random_dataset(testing::tiny_run(big));
  comm::run_threads(1, [&](comm::World& world) {
    size_t need = 0;
    {
      RunConfig config = testing::tiny_run(with(big, {"train.activation_recompute=full"}));
      const auto queue = device::accelerator(device::DeviceKind::kCuda).make_queue(0);
      comm::Mesh mesh(world, config.mesh);
      need = plan_memory(config, *queue, mesh, 64, true).total();
    }
    const size_t free = device::accelerator(device::DeviceKind::kCuda).memory().free;
    const size_t room = need + (size_t(600) << 20);  // and what a queue takes
    ASSERT_GT(free, room);
    const device::Buffer others(device::DeviceKind::kCuda, free - room);
    try {
      TrainState state(testing::tiny_run(big), dataset, world);
      FAIL() << "it fitted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      const std::string text = error.what();
      std::printf("%s\n", text.c_str());
      EXPECT_NE(text.find("train.activation_recompute: full fits"), std::string::npos) << text;
      EXPECT_NE(text.find("train.micro_batch: "), std::string::npos) << text;
    }
    TrainState state(testing::tiny_run(with(big, {"train.activation_recompute=full"})), dataset, world);
    train_step(state, {});  // what was said to fit does, also while it runs
  });
}

// What a plan says is what is gone after a step, up to what libraries were allowed.
TEST_F(CudaStep, TakesWhatWasPlanned) {
  const RunConfig run = testing::tiny_run(
      with(kBf16, {"model.vocab=40", "data.seq_len=1024", "train.global_batch=32", "train.micro_batch=32",
                   "model.dim=512", "model.heads=4", "model.kv_heads=4", "data.mask_documents=false"}));
  const Dataset dataset = random_dataset(run);
  comm::run_threads(1, [&](comm::World& world) {
    const auto free = [] { return device::accelerator(device::DeviceKind::kCuda).memory().free; };
    device::accelerator(device::DeviceKind::kCuda).make_queue(0);  // the context is not the run's
    const size_t before = free();
    TrainState state(run, dataset, world);
    for (int i = 0; i < 2; ++i) train_step(state, {});
    state.model.queue.wait();
    const double taken = double(before - free()), planned = double(state.model.plan.total());
    std::printf("planned %.3f GiB (%s), taken %.3f GiB\n", planned / 0x1p30, state.model.plan.text().c_str(),
                taken / 0x1p30);
    EXPECT_LE(taken, planned);
    EXPECT_GE(taken, planned - 1.1 * 0x1p29);
  });
}

}  // namespace
}  // namespace cadre::trainer
