// index.json of a checkpoint: what is in it, where, and how to know that it is whole. docs/formats.md
// describes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/device/element_order.h"

namespace cadre::trainer {

struct FileInfo {
  uint64_t bytes = 0;
  std::string sha256;
};

// Elements [begin, begin + count) of a tensor, flattened in its order, stand at byte `offset` of `file`, little-endian.
struct TensorPiece {
  std::string file;
  uint64_t offset = 0;
  int64_t begin = 0, count = 0;
};
inline constexpr const char *kFloat32 = "float32", *kBfloat16 = "bfloat16";
inline size_t element_bytes(const std::string& dtype) {
  return dtype == kBfloat16 ? 2 : 4;
}
struct TensorInfo {
  std::string dtype;                // kFloat32 or kBfloat16
  std::vector<int64_t> shape;       // global
  std::vector<TensorPiece> pieces;  // in rising begin, without gaps or overlaps
  int axis = 0, parts = 1;  // of order(): split_axis of device::ParamRow, and the ranks that shared it
  device::ElementOrder order() const { return {shape, axis, parts}; }
  int64_t numel() const;
};

struct CheckpointIndex {
  static constexpr int kFormatVersion = 1;
  uint64_t step = 0;
  std::map<std::string, FileInfo> files;
  std::map<std::string, TensorInfo> tensors;
  nlohmann::json state;   // progress, feed, model, optimizer: see checkpoint.cc
  nlohmann::json run;     // layout, threads, processor and binary: what the promise of equal bits depends on
  std::string config;     // the resolved run file
  std::string tokenizer;  // file name; empty when the run had none
  std::string manifest_hash;
};

// Name of the file that holds the SHA-256 of index.json; written last.
inline constexpr const char* kIndexFile = "index.json";
inline constexpr const char* kIndexHashFile = "index.sha256";
// Sampled sequences that wait for their update, of runs that sample.
inline constexpr const char* kRolloutFile = "rollouts.bin";

std::string to_json(const CheckpointIndex& index);
// What only this rank knows, its files and pieces: what others add to theirs with merge_part.
std::string part_json(const CheckpointIndex& index);
// Adds the files and pieces of another rank's part to the first rank's index.
void merge_part(CheckpointIndex& whole, const std::string& part);
// Writes the two index files into a folder that is complete but for them.
void write_index(const CheckpointIndex& index, const std::filesystem::path& folder);
// Reads and checks folder/index.json: its hash, every type and bound, that pieces cover their tensors. Does
// not look at the other files. Throws Error(kCheckpoint).
CheckpointIndex read_index(const std::filesystem::path& folder);
// Compares sizes and hashes of the files `first`, first + stride, ... (in order of name) and returns what is
// wrong, or an empty text. Ranks share the work by passing their rank and number.
std::string check_files(const CheckpointIndex& index, const std::filesystem::path& folder, int first,
                        int stride);

}  // namespace cadre::trainer
