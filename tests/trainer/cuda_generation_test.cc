// Generation on a GPU: in fp32 the CPU's tokens, and in both types the log-probabilities of the trainer's own forward
// pass. Skipped where there is no GPU.
#include <cmath>

#include "parallel/device/cuda/queue_cuda.h"
#include "tests/trainer/cuda_fixture.h"
#include "tests/trainer/rollout_requests.h"
#include "tests/trainer/trained_row.h"
#include "trainer/rollout/engine.h"

namespace cadre::trainer {
namespace {

using testing::kBf16;
using testing::kCpu;
using testing::kFp32;
using testing::Overrides;
using testing::trained_row;
using testing::with;

constexpr int64_t kLength = 64, kSequences = 8;

// Large enough initial values for every layer to matter.
const Overrides kModel = {
    "model.dim=64", "model.heads=4",      "model.kv_heads=2",   "model.ffn_width=96", "moe.num_experts=8",
    "moe.width=48", "model.qk_norm=head", "model.init_std=0.1", "data.seq_len=64",    "model.tie_head=false"};

EngineConfig engine_config() {
  return {.max_sequences = 20,
          .page_size = 16,
          .max_length = kLength,
          .max_new_tokens = 30,
          .max_rows = kLength * kSequences,
          .shape = {},
          .seed = 3,
          .eos = 1,
          .routing = true};
}

// before() is called before each pass.
std::vector<Rollout> sample(
    Network<float>& model, comm::Communicator& expert, const EngineConfig& config,
    const std::function<void()>& before = [] {}) {
  Engine engine(model, expert, config);
  for (auto& group : testing::requests(7, 4, 30, testing::kVocab)) engine.add(std::move(group));
  do {
    before();
  } while (engine.step());
  return testing::sorted(engine.take_finished());
}

void with_model(const Overrides& device, const std::function<void(ModelState&)>& body) {
  comm::run_threads(1, [&](comm::World& world) {
    RunConfig config = testing::tiny_run(with(kModel, device));
    set_vocab(config, testing::kVocab);
    ModelState model(config, world, kSequences, false);
    body(model);
  });
}

std::vector<Rollout> samples(const Overrides& device, const EngineConfig& config) {
  std::vector<Rollout> all;
  with_model(device, [&](ModelState& m) { all = sample(m.decoder, m.mesh.expert(), config); });
  return all;
}

void expect_same(const std::vector<Rollout>& got, const std::vector<Rollout>& expected,
                 const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].tokens, expected[i].tokens)
        << what << ", group " << got[i].group << " sample " << got[i].sample;
    EXPECT_EQ(got[i].finish, expected[i].finish) << what;
    EXPECT_EQ(got[i].routing, expected[i].routing) << what;
    for (size_t t = 0; t < got[i].logp.size(); ++t)
      ASSERT_NEAR(got[i].logp[t], expected[i].logp[t], 1e-4) << what;
  }
}

class CudaGeneration : public testing::CudaTest {};

TEST_F(CudaGeneration, Fp32SamplesTheTokensOfTheCpu) {
  for (const device::SampleShape& shape :
       {device::SampleShape{}, device::SampleShape{.temperature = 0}, device::SampleShape{.temperature = 0.7},
        device::SampleShape{.top_k = 5}, device::SampleShape{.top_p = 0.8}}) {
    EngineConfig config = engine_config();
    config.shape = shape;
    expect_same(samples(kFp32, config), samples(kCpu, config),
                fmt::format("temperature {} top_k {} top_p {}", shape.temperature, shape.top_k, shape.top_p));
  }
}

// Other numbers of rows in a pass, other places in memory.
TEST_F(CudaGeneration, BatchingAndPagesDoNotChangeWhatFp32Samples) {
  const auto expected = samples(kCpu, engine_config());
  for (const int64_t page_size : {1, 5, 64}) {
    EngineConfig config = engine_config();
    config.page_size = page_size;
    config.max_sequences = 3;
    config.max_rows = 21;
    expect_same(samples(kFp32, config), expected, fmt::format("pages of {}", page_size));
  }
}

TEST_F(CudaGeneration, LogProbabilitiesAreThoseOfTheTrainersForward) {
  for (const Overrides& device : {kFp32, kBf16}) {
    with_model(device, [&](ModelState& m) {
      double mean = 0, largest = 0, squares = 0, tokens = 0;
      const auto rollouts = sample(m.decoder, m.mesh.expert(), engine_config());
      for (const Rollout& r : rollouts) {
        const auto logp = m.decoder.forward(trained_row(r), false);
        for (int64_t t = 0; t < r.response_length(); ++t, ++tokens) {
          const double difference = double(r.logp[size_t(t)]) - double(logp[r.prompt_length - 1 + t]);
          mean += std::abs(difference);
          squares += difference * difference;
          largest = std::max(largest, std::abs(difference));
        }
      }
      std::printf("%s: |behaviour - trainer| mean %.2e largest %.2e; std(log W) at length 400 %.3f\n",
                  m.bf16() ? "bf16" : "fp32", mean / tokens, largest, std::sqrt(400 * squares / tokens));
      EXPECT_LE(mean / tokens, 0.01);
      if (!m.bf16()) {
        EXPECT_LE(largest, 1e-4);
      }
    });
  }
}

// Loading the routers' state makes the next pass run kernel by kernel, as the first of each size does.
TEST_F(CudaGeneration, RecordedPassesSampleWhatPassesKernelByKernelDo) {
  const Overrides biased = {"moe.router={name: sigmoid_bias}"};
  for (const Overrides& device : {kFp32, kBf16, with(kBf16, biased)}) {
    std::vector<Rollout> found[2];
    for (const bool recorded : {false, true}) {
      with_model(device, [&](ModelState& m) {
        const auto& queue = static_cast<device::cuda::CudaQueue&>(m.queue);
        const auto before = [&] {
          if (!recorded) m.decoder.load_state(m.decoder.save_state());
        };
        found[recorded] = sample(m.decoder, m.mesh.expert(), engine_config(), before);
        EXPECT_EQ(queue.replays() > 10, recorded) << queue.replays() << " passes were launched as one";
      });
    }
    ASSERT_EQ(found[0].size(), found[1].size());
    for (size_t i = 0; i < found[0].size(); ++i) {
      EXPECT_EQ(found[1][i].tokens, found[0][i].tokens);
      EXPECT_EQ(found[1][i].logp, found[0][i].logp);
      EXPECT_EQ(found[1][i].routing, found[0][i].routing);
    }
  }
}

// With ends that only the host can see: its tokens are the CPU's, which knows each before it goes on. With lengths alone
// the passes have the same rows, so that bf16 gives the same bits; and the host does not wait for each pass.
TEST_F(CudaGeneration, RunningAheadDoesNotChangeWhatIsSampled) {
  EngineConfig config = engine_config();
  config.routing = false;
  for (const int64_t sequences : {20, 3}) {
    config.max_sequences = sequences;
    config.run_ahead = {};
    expect_same(samples(kFp32, config), samples(kCpu, config), fmt::format("{} at once", sequences));
  }
  config.max_sequences = 28;
  config.eos = -1;
  std::vector<Rollout> found[2];
  for (const bool ahead : {false, true}) {
    config.run_ahead = ahead;
    with_model(kBf16, [&](ModelState& m) {
      const auto& queue = static_cast<device::cuda::CudaQueue&>(m.queue);
      const int64_t waits = queue.waits();
      found[ahead] = sample(m.decoder, m.mesh.expert(), config);
      EXPECT_GT(queue.replays(), 10);
      EXPECT_LT(queue.waits() - waits, queue.replays());
    });
  }
  ASSERT_EQ(found[0].size(), 28u);
  EXPECT_EQ(pack(found[1]), pack(found[0]));
}

TEST_F(CudaGeneration, Bf16RepeatsBitByBit) {
  const auto first = samples(kBf16, engine_config()), second = samples(kBf16, engine_config());
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].tokens, second[i].tokens);
    EXPECT_EQ(first[i].logp, second[i].logp);
  }
}

}  // namespace
}  // namespace cadre::trainer
