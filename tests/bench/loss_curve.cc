// The loss curve of a model of five million parameters on the CPU and on a GPU, and all that a peer needs to draw the same
// one: the initial weights as a checkpoint, and every batch. peers/loss_curve.py is that peer.
//   loss_curve OUT STEPS TEXT...
// Text files are cut into documents of bytes. OUT gets checkpoints/, batches.bin and curve.json.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "parallel/base/files.h"
#include "parallel/device/accelerator.h"
#include "trainer/run/checkpoint_writer.h"
#include "trainer/run/step.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using Overrides = std::vector<std::string>;

constexpr const char* kRun = R"(
seed: 11
data: {seq_len: 128, mask_documents: false}
model: {dim: 128, layers: 4, heads: 4, kv_heads: 4, first_dense_layers: 0, qk_norm: full, tie_head: false}
moe: {num_experts: 16, top_k: 4, width: 192, router: {name: softmax_topk, normalize: false}, balance: {name: micro_batch, coef: 0.01}, z_loss: 0.001}
optim: {name: adamw, lr: 2.0e-3, betas: [0.9, 0.95], eps: 1.0e-8, weight_decay: 0.1}
schedule: {name: wsd, warmup: 20, decay: 0.3}
train: {global_batch: 32, micro_batch: 32, clip_norm: 1.0}
eval: {every: 0}
checkpoint: {every: 0}
)";
constexpr int64_t kBos = 256, kEos = 257, kVocab = 258, kDocument = 1500;

Dataset read_texts(int count, char** files) {
  std::vector<data::MemoryDocument> documents;
  for (int i = 0; i < count; ++i) {
    const std::string text = base::read_file(files[i], ExitCode::kData);
    for (size_t begin = 0; begin < text.size(); begin += kDocument) {
      data::MemoryDocument document;
      document.tokens.push_back(kBos);
      const size_t end = std::min(text.size(), begin + size_t(kDocument));
      for (size_t at = begin; at < end; ++at) document.tokens.push_back(int32_t(uint8_t(text[at])));
      document.tokens.push_back(kEos);
      document.bytes = int64_t(end - begin);
      documents.push_back(std::move(document));
    }
  }
  Dataset set;
  set.train = data::make_memory_corpus({"text"}, std::move(documents));
  set.vocab = kVocab;
  return set;
}

RunConfig run_file(const std::string& out, int64_t steps, Overrides overrides) {
  overrides.push_back("out=" + out);
  overrides.push_back(fmt::format("train.steps={}", steps));
  return read_run(base::parse_run_text(kRun, "loss_curve", overrides));
}

// Initial weights, and tokens, targets, loss mask, segments and positions of every batch, int32 each.
void write_inputs(const RunConfig& run, const Dataset& set, const fs::path& out) {
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(run, set, world);
    CheckpointWriter writer(out / "checkpoints", state);
    writer.start();
    const SaveResult saved = writer.finish();
    require(saved.error.empty(), ExitCode::kCheckpoint, "{}", saved.error);
    std::ofstream file(out / "batches.bin", std::ios::binary);
    const auto write = [&](const auto& values) {
      const std::vector<int32_t> all(values.begin(), values.end());
      file.write(reinterpret_cast<const char*>(all.data()), std::streamsize(all.size() * sizeof(int32_t)));
    };
    for (; state.progress.step < state.progress.total_steps; ++state.progress.step) {
      const data::LoadedBatch batch = state.feed.next(state.progress);
      const Batch& micro = batch.micro.at(0);
      for (const auto* values : {&micro.tokens, &micro.targets}) write(*values);
      write(micro.loss_mask);
      for (const auto* values : {&micro.segment, &micro.position}) write(*values);
    }
    require(bool(file), ExitCode::kData, "cannot write {}", (out / "batches.bin").string());
  });
}

struct Curve {
  std::vector<double> loss, norm, lr;
};
Curve train(const RunConfig& run, const Dataset& set) {
  Curve curve;
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(run, set, world);
    while (state.progress.step < state.progress.total_steps) {
      const StepReport report = train_step(state, {});
      curve.loss.push_back(report.loss);
      curve.norm.push_back(report.grad_norm);
      curve.lr.push_back(report.lr);
    }
  });
  return curve;
}

int draw(int argc, char** argv) {
  require(argc >= 4, ExitCode::kUsage, "usage: loss_curve OUT STEPS TEXT...");
  const fs::path out = argv[1];
  const int64_t steps = std::atoll(argv[2]);
  const Dataset set = read_texts(argc - 3, argv + 3);
  fs::create_directories(out);
  std::vector<std::pair<std::string, Overrides>> sides = {{"cpu", {"device=cpu"}}};
  bool gpu = false;
  for (const device::Accelerator& entry : device::accelerators()) gpu = gpu || entry.probe().num_devices > 0;
  if (gpu) {
    sides.push_back({"cuda_fp32", {"device=cuda", "precision=fp32"}});
    sides.push_back({"cuda_bf16", {"device=cuda"}});
    sides.push_back({"cuda_bf16_again", {"device=cuda"}});
    sides.push_back(
        {"cuda_bf16_moments", {"device=cuda", "optim.moments=bf16", "optim.rounding=stochastic"}});
  }
  write_inputs(run_file(out, steps, {"device=cpu"}), set, out);
  nlohmann::json result = {{"steps", steps}};
  for (const auto& [name, overrides] : sides) {
    const RunConfig run = run_file(out, steps, overrides);
    const Curve curve = train(run, set);
    result["sequences"] = run.train.global_batch;
    result["seq_len"] = run.data.seq_len;
    result["lr"] = curve.lr;
    result[name] = {{"loss", curve.loss}, {"grad_norm", curve.norm}};
    fmt::print("{}: {:.6f} to {:.6f}\n", name, curve.loss.front(), curve.loss.back());
  }
  base::write_file_atomic(out / "curve.json", result.dump() + "\n", ExitCode::kData);
  return 0;
}

}  // namespace
}  // namespace cadre::trainer

int main(int argc, char** argv) {
  try {
    return cadre::trainer::draw(argc, argv);
  } catch (const cadre::Error& error) {
    std::cerr << "loss_curve: " << error.what() << "\n";
    return int(error.code());
  }
}
