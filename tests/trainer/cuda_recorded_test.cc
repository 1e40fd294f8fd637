// Passes of training that a GPU runs as recordings, against the same passes kernel by kernel, bit by bit. Skipped where
// there is no GPU.
#include "parallel/device/cuda/queue_cuda.h"
#include "tests/trainer/cuda_fixture.h"
#include "trainer/run/bench.h"
#include "trainer/run/evaluate.h"

namespace cadre::trainer {
namespace {

using testing::kBf16;
using testing::kFp32;
using testing::Overrides;
using testing::with;

// Without experts.
const Overrides kDense = {"model.first_dense_layers=3", "train.micro_batch=8"};
// Long enough for cuDNN's attention and the products with several terms.
const Overrides kLong = {"model.vocab=40",   "model.dim=128",    "model.heads=2",
                         "model.kv_heads=2", "data.seq_len=256", "data.mask_documents=false"};
// Halves of layers whose weight gradients are one launch on a GPU of 132 multiprocessors.
const Overrides kWide = {"model.dim=1024",       "model.heads=16", "model.kv_heads=16",
                         "model.ffn_width=2816", "model.layers=2", "model.first_dense_layers=2",
                         "data.seq_len=64"};
constexpr int kByHand = 3;  // passes before one is recorded

device::cuda::CudaQueue& queue_of(TrainState& state) {
  return static_cast<device::cuda::CudaQueue&>(state.model.queue);
}

Dataset dataset_of(const Overrides& overrides) {
  const RunConfig run = testing::tiny_run(overrides);
  return run.model.vocab > 0 ? random_dataset(run) : testing::tiny_dataset();
}

struct Pass {
  std::vector<float> logp;
  std::vector<std::vector<float>> gradients;
  bool operator==(const Pass&) const = default;
};

Pass pass(TrainState& state, const Batch& micro) {
  ModelState& model = state.model;
  model.store.start_grads(model.queue);
  model.decoder.begin_step();
  const auto logp = model.decoder.forward(micro, true);
  Pass result{{logp.data(), logp.data() + logp.size()}, {}};
  std::vector<Real> dlogp(size_t(micro.num_tokens()));
  for (size_t t = 0; t < dlogp.size(); ++t) dlogp[t] = -Real(micro.loss_mask[t]) / Real(dlogp.size());
  std::vector<int> done;
  model.decoder.backward({dlogp.data(), {micro.num_tokens()}}, {}, [&](int bucket) {
    done.push_back(bucket);
    model.store.collect_grads(model.queue, bucket, true);
  });
  EXPECT_EQ(int(done.size()), model.table.num_buckets());
  EXPECT_TRUE(std::is_sorted(done.rbegin(), done.rend()));
  result.gradients = testing::gradients(model);
  return result;
}

// All memory where it was, but no recording of it.
void forget(ModelState& model) {
  for (device::Arena* arena : {&model.saved, &model.scratch}) arena->release(0);
  model.decoder.reserve(model.saved, model.scratch);
}

bool several(const Batch& batch) {
  return std::any_of(batch.segment.begin(), batch.segment.end(), [](int32_t s) { return s != 0; });
}

class CudaRecorded : public testing::CudaRun {};

TEST_P(CudaRecorded, ReplaysHaveTheBitsOfTheKernelsOneByOne) {
  for (const Overrides& precision : {kFp32, kBf16}) {
    const Overrides overrides = with(with(kDense, precision), GetParam());
    const Dataset dataset = dataset_of(overrides);
    comm::run_threads(1, [&](comm::World& world) {
      TrainState state(testing::tiny_run(overrides), dataset, world);
      const Batch first = state.feed.next(state.progress).micro.at(0),
                  other = state.feed.next(state.progress).micro.at(0);
      ASSERT_NE(first.tokens, other.tokens);
      ASSERT_EQ(several(first), several(other)) << "they would not share a recording";
      const Pass expected = pass(state, first);
      forget(state.model);
      const Pass expected_other = pass(state, other);
      ASSERT_NE(expected, expected_other);
      forget(state.model);
      for (int i = 0; i < kByHand; ++i) ASSERT_EQ(pass(state, first), expected) << "by hand, " << i;
      EXPECT_EQ(queue_of(state).replays(), 0);
      EXPECT_EQ(pass(state, first), expected) << "recorded";
      EXPECT_EQ(queue_of(state).replays(), 2) << "forward and back";
      EXPECT_EQ(pass(state, other), expected_other) << "the recording with another batch";
      // A pass of another shape in between.
      Batch part = first;
      part.num_sequences = 1;
      for (std::vector<int32_t>* ids : {&part.tokens, &part.targets, &part.segment, &part.position})
        ids->resize(size_t(part.seq_len));
      part.loss_mask.resize(size_t(part.seq_len));
      state.model.decoder.forward(part, false);
      EXPECT_EQ(pass(state, first), expected) << "the recording again";
      EXPECT_EQ(queue_of(state).replays(), 6);
    });
  }
}
INSTANTIATE_TEST_SUITE_P(
    Variants, CudaRecorded,
    ::testing::Values(Overrides{}, Overrides{"data.mask_documents=false"},
                      Overrides{"train.activation_recompute=selective", "model.qk_norm=head"},
                      Overrides{"train.activation_recompute=full", "model.tie_head=false"}, kLong,
                      with(kLong, {"model.layers=2", "model.first_dense_layers=2"}), kWide,
                      with(kWide, {"train.activation_recompute=full", "model.qk_norm=full"})));

class CudaRecordedRun : public testing::CudaTest {};

TEST_F(CudaRecordedRun, StepsHaveTheBitsOfStepsWithoutRecordings) {
  const Dataset dataset = testing::tiny_dataset();
  constexpr int kSteps = 8;
  const auto reports = [&](const Overrides& overrides, bool recorded) {
    std::vector<StepReport> all;
    comm::run_threads(1, [&](comm::World& world) {
      TrainState state(testing::tiny_run(overrides), dataset, world);
      const EvalSet set = choose_documents(*dataset.valid, 50);
      for (int i = 0; i < kSteps; ++i) {
        if (!recorded) forget(state.model);
        all.push_back(train_step(state, {}));
        if (i == kSteps / 2) evaluate(state.model, *dataset.valid, set, 1);
      }
      const int64_t replays = queue_of(state).replays();
      EXPECT_TRUE(recorded ? replays >= 2 * (kSteps - kByHand) : replays == 0) << replays;
    });
    return all;
  };
  for (const Overrides& precision : {kFp32, kBf16}) {
    for (const int micro : {8, 4}) {  // two micro-batches: in fp32 the second one's gradients are added
      const Overrides overrides = with(with(kDense, precision), {fmt::format("train.micro_batch={}", micro)});
      const auto got = reports(overrides, true), expected = reports(overrides, false);
      EXPECT_EQ(testing::losses(got), testing::losses(expected)) << micro;
      EXPECT_EQ(testing::norms(got), testing::norms(expected)) << micro;
    }
  }
}

TEST_F(CudaRecordedRun, ModelsWithExpertsAreNotRecorded) {
  const Dataset dataset = testing::tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(testing::tiny_run(kBf16), dataset, world);
    for (int i = 0; i < 2 * kByHand; ++i) train_step(state, {});
    EXPECT_EQ(queue_of(state).replays(), 0);
  });
}

}  // namespace
}  // namespace cadre::trainer
