// 20 steps of AdamW against a plain PyTorch loop from the same weights on the same batches
// (tests/golden/make_training.py), and runs that start from an imported model.
#include <cmath>

#include "optim/clipping.h"
#include "tests/interop/interop_fixture.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/loop.h"

namespace cadre::interop {
namespace {

using nlohmann::json;
using testing::golden_folder;
using testing::TempFolder;

constexpr int kSteps = 20, kSequences = 4, kLength = 16, kVocab = 32;

// As in the script.
Batch golden_batch(int step) {
  std::vector<int32_t> tokens, targets;
  for (int row = 0; row < kSequences; ++row) {
    const int index = step * kSequences + row, noise = index % 5 == 0 ? 11 : 0;
    const auto token = [&](int t) {
      return int32_t((index * 7 + t * (1 + index % 3) + noise * (t * t % 7)) % kVocab);
    };
    for (int t = 0; t < kLength; ++t) {
      tokens.push_back(token(t));
      targets.push_back(token(t + 1));
    }
  }
  return testing::whole_batch(kSequences, kLength, tokens, targets);
}

trainer::Dataset dataset() {
  trainer::Dataset set;
  std::vector<data::MemoryDocument> documents;
  for (int d = 0; d < 40; ++d) {
    data::MemoryDocument document;
    for (int t = 0; t < 20; ++t) document.tokens.push_back((d + t * (1 + d % 3)) % kVocab);
    document.bytes = 20;
    documents.push_back(std::move(document));
  }
  set.train = data::make_memory_corpus({"all"}, std::move(documents));
  set.vocab = kVocab;
  return set;
}

trainer::RunConfig run_from(const TempFolder& folder, const std::vector<std::string>& overrides,
                            bool experts = true) {
  const std::string text =
      fmt::format(R"(
init: {}
out: {}
threads: 1
data: {{seq_len: 16}}
{}
optim: {{name: adamw, lr: 3.0e-3, weight_decay: 0.1}}
schedule: {{name: wsd, warmup: 1, decay: 0}}
train: {{steps: 20, global_batch: 4, micro_batch: 4, clip_norm: 1.0}}
eval: {{every: 0}}
checkpoint: {{every: 0}}
)",
                  (folder / "ckpt").string(), (folder / "run").string(),
                  experts ? "moe: {balance: {name: micro_batch, coef: 0.01}, z_loss: 0.001}" : "");
  return trainer::read_run(trainer::with_initial_model(base::parse_run_text(text, "run.yaml", overrides)));
}

// One step of the trainer on a given batch; returns its cross-entropy.
double step_on(trainer::TrainState& state, const Batch& batch) {
  const BatchCounts counts = testing::counts_of(batch);
  state.model.store.start_grads(state.model.queue);
  state.model.decoder.begin_step();
  const auto logp = state.model.decoder.forward(batch, true);
  std::vector<float> dlogp(size_t(batch.num_tokens()));
  const device::View<float, 1> gradient(dlogp.data(), {batch.num_tokens()});
  const double loss = state.objective->loss_and_grad(logp, batch, counts, gradient);
  state.model.decoder.backward(gradient, counts, [&](int bucket) { state.reducer.add(bucket); });
  double squares = 0;
  state.start_norm(squares);
  state.model.queue.wait();
  const auto norm = optim::finish_norm(squares, state.model.mesh.data(), 1.0, loss);
  state.optimizer->step(state.peak_lr, norm.scale, [&](int bucket) { state.reducer.gather_values(bucket); });
  state.reducer.finish_values();
  return loss;
}

TEST(Training, FollowsAPlainPyTorchLoop) {
  const json golden = json::parse(base::read_file(
      testing::fs::path(CADRE_GOLDEN_MODELS).parent_path() / "training.json", ExitCode::kData));
  const trainer::Dataset set = dataset();
  ASSERT_EQ(golden.size(), 2u);
  for (const auto& [name, losses] : golden.items()) {
    TempFolder folder;
    testing::import_to(golden_folder(name), folder / "ckpt");
    comm::run_threads(1, [&, &name = name, &losses = losses](comm::World& world) {
      trainer::TrainState state(run_from(folder, {}, name != "llama_tied"), set, world);
      trainer::TensorReader reader(folder / "ckpt");
      trainer::start_from(state.model, reader, (folder / "ckpt").string());
      for (int step = 0; step < kSteps; ++step) {
        EXPECT_NEAR(step_on(state, golden_batch(step)), losses[size_t(step)].get<double>(), 1e-4)
            << name << " step " << step;
      }
    });
    EXPECT_LT(losses.back().get<double>(), losses.front().get<double>() - 0.5) << "it learns";
  }
}

double first_loss(const TempFolder& folder, int ranks, std::vector<std::string> overrides) {
  static const trainer::Dataset set = dataset();
  overrides.push_back("train.steps=1");
  overrides.push_back("train.micro_batch=2");
  const trainer::RunConfig run = run_from(folder, overrides);
  comm::run_threads(ranks,
                    [&](comm::World& world) { trainer::train(run, set, world, {.measure_peak = false}); });
  std::ifstream file(folder / "run/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const json entry = json::parse(line);
    if (entry["kind"] == "train") return entry["loss"];
  }
  return NAN;
}

TEST(Init, ARunStartsWithTheCheckpointOnAnyLayout) {
  std::vector<double> losses;
  for (const int ranks : {1, 2}) {
    TempFolder folder;
    testing::import_to(golden_folder("mixtral"), folder / "ckpt");
    losses.push_back(
        first_loss(folder, ranks, {fmt::format("mesh.ep={}", ranks), "moe.balance={name: none}"}));
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-5);
  TempFolder random;
  testing::import_to(golden_folder("mixtral"), random / "ckpt");
  EXPECT_GT(std::abs(first_loss(random, 1,
                                {"model.init_std=0.3", "init=''", "model.dim=16", "model.heads=4",
                                 "moe.balance={name: none}"}) -
                     losses[0]),
            1e-3)
      << "without init the run starts with other values";
}

TEST(Init, AnotherModelIsRefusedAndRotationMayChange) {
  TempFolder folder;
  testing::import_to(golden_folder("mixtral"), folder / "ckpt");
  const std::string error =
      testing::error_of(ExitCode::kUsage, [&] { first_loss(folder, 1, {"model.norm_eps=0.1"}); });
  EXPECT_NE(error.find("model.norm_eps"), std::string::npos) << error;
  EXPECT_NE(error.find("init"), std::string::npos) << error;
  EXPECT_TRUE(std::isfinite(
      first_loss(folder, 1, {"model.rope={theta: 1000000, scaling: {name: linear, factor: 2}}"})));
}

}  // namespace
}  // namespace cadre::interop
