// The golden models of tests/golden/models (made by tests/golden/make_models.py), and folders that go away.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "parallel/base/files.h"
#include "tests/temp_folder.h"
#include "trainer/interop/hf_folder.h"
#include "trainer/interop/transfer.h"
#include "trainer/run/checkpoint.h"

namespace cadre::interop::testing {

namespace fs = std::filesystem;

inline fs::path golden_folder(const std::string& name) {
  return fs::path(CADRE_GOLDEN_MODELS) / name;
}
inline std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(CADRE_GOLDEN_MODELS)) {
    if (fs::exists(entry.path() / kConfigFile)) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

using test::TempFolder;

// A tensor of a golden file.
inline std::vector<float> golden_tensor(SafetensorsFile& file, const std::string& name) {
  const TensorEntry& entry = file.tensors().at(name);
  std::vector<float> values(size_t(entry.numel()));
  file.read(entry, 0, values);
  return values;
}

inline TransferReport import_to(const fs::path& from, const fs::path& to,
                                const std::optional<Upcycle>& upcycle = {}, int ranks = 1) {
  TransferReport report;
  comm::run_threads(ranks, [&](comm::World& world) {
    const TransferReport own = import_model({.from = from, .to = to, .upcycle = upcycle}, world);
    if (world.rank() == 0) report = own;
  });
  return report;
}
inline TransferReport export_to(const ExportOptions& options, int ranks = 1) {
  TransferReport report;
  comm::run_threads(ranks, [&](comm::World& world) {
    const TransferReport own = export_model(options, world);
    if (world.rank() == 0) report = own;
  });
  return report;
}

// The one error that `work` ends in; its code must be `code`.
template <class Work>
std::string error_of(ExitCode code, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

// A checkpoint's model with its gradients, in a world of one rank. Balance and z-loss are off, as in the golden
// numbers.
class LoadedCheckpoint {
 public:
  LoadedCheckpoint(const fs::path& folder, comm::World& world, int64_t seq_len, int64_t sequences)
      : reader_(folder) {
    trainer::RunConfig run = trainer::checkpoint_config(reader_.index(), folder);
    run.data.seq_len = seq_len;
    run.threads = 1;
    if (run.moe) {
      run.moe->balance = YAML::Load("{name: none}");
      run.moe->z_loss = 0;
    }
    model_ = std::make_unique<trainer::ModelState>(run, world, sequences, true);
    trainer::restore_model(*model_, reader_);
  }
  trainer::ModelState& operator*() { return *model_; }
  trainer::ModelState* operator->() { return model_.get(); }

 private:
  trainer::TensorReader reader_;
  std::unique_ptr<trainer::ModelState> model_;
};

// Inputs and targets of whole sequences, each its own document. `targets` empty: the next token, and nothing for
// the last one.
inline Batch whole_batch(int64_t sequences, int64_t length, const std::vector<int32_t>& tokens,
                         const std::vector<int32_t>& targets = {}) {
  Batch b;
  b.num_sequences = sequences;
  b.seq_len = length;
  for (int64_t t = 0; t < sequences * length; ++t) {
    const bool last = t % length == length - 1;
    b.tokens.push_back(tokens[size_t(t)]);
    b.targets.push_back(!targets.empty() ? targets[size_t(t)] : last ? 0 : tokens[size_t(t) + 1]);
    b.loss_mask.push_back(!targets.empty() || !last);
    b.segment.push_back(0);
    b.position.push_back(int32_t(t % length));
    b.domain.push_back(0);
    b.document.push_back(0);
  }
  return b;
}
inline BatchCounts counts_of(const Batch& b) {
  BatchCounts counts;
  for (const auto mask : b.loss_mask) counts.trained_tokens += mask != 0;
  counts.real_tokens = b.num_tokens();
  counts.sequences = b.num_sequences;
  return counts;
}

}  // namespace cadre::interop::testing
