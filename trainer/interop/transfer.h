// Published models in and out: a Hugging Face folder becomes a checkpoint, and back. Both share the work over
// ranks by tensors and hold a few megabytes at a time, and both leave nothing behind when they fail.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "parallel/comm/mesh.h"
#include "trainer/interop/float_format.h"

namespace cadre::interop {

inline constexpr int64_t kTransferChunk = int64_t(1) << 20;  // numbers of a tensor in memory at a time

// A dense model made into one with experts (Komatsuzaki et al. 2022, arXiv 2212.05055): in every layer each
// expert is a copy of the dense feed-forward. The chosen gates add up to 1, so the first forward pass is the
// dense one, up to rounding; the routers start at random.
struct Upcycle {
  int experts = 0, top_k = 0;
};

struct ImportOptions {
  std::filesystem::path from, to;  // folder; checkpoint, which must not exist
  std::optional<Upcycle> upcycle;
  int64_t seq_len = 0;    // of the checkpoint's run file; 0: max_position_embeddings, at most 2048
  bool tokenizer = true;  // false: the checkpoint gets none, for tokenizers that cannot be read
};
struct ExportOptions {
  std::filesystem::path from, to;     // run folder or checkpoint; folder, which must not exist
  std::optional<FloatFormat> format;  // none: the one that the model was imported in, float32 for others
  uint64_t shard_bytes = 5'000'000'000;
  std::filesystem::path like;  // a published folder to take the tokenizer and the rest of config.json from
};

struct TransferReport {
  std::string model_type;  // of config.json
  int64_t parameters = 0;
  size_t tensors = 0, files = 0;  // published ones
  uint64_t bytes = 0;             // of the published tensors
  FloatFormat format{};           // of most of them
};
// Collective over the world; the result is the same on every rank. Throw Error(kData) for a folder that is not
// what it says, Error(kUsage) for a model that is of no known family, Error(kCheckpoint) for a damaged
// checkpoint or when the result cannot be written.
TransferReport import_model(const ImportOptions& options, comm::World& world);
TransferReport export_model(const ExportOptions& options, comm::World& world);

}  // namespace cadre::interop
