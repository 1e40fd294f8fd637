// One safetensors file: 8 bytes of little-endian length, a JSON header {name: {dtype, shape, data_offsets}},
// then the tensors' bytes (github.com/huggingface/safetensors, "Format"). The header comes from strangers:
// every size in it is compared with the file's before anything is allocated or read by it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "parallel/base/files.h"
#include "trainer/interop/float_format.h"

namespace cadre::interop {

struct TensorEntry {
  FloatFormat format{};
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // of its first byte in the file
  int64_t numel() const;
};

class SafetensorsFile {
 public:
  // Reads and checks the header: types and bounds of every field, sizes against shapes, no name twice, and
  // that the tensors fill the file without gap or overlap. Throws Error(kData).
  explicit SafetensorsFile(std::filesystem::path path);
  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }
  // Elements [begin, begin + out.size()) of a tensor, flattened, as float or as they are in the file (then
  // out is in bytes). Throws Error(kData).
  void read(const TensorEntry& tensor, int64_t begin, std::span<float> out);
  void read_bytes(const TensorEntry& tensor, int64_t begin, std::span<std::byte> out);

 private:
  std::filesystem::path path_;
  std::map<std::string, TensorEntry> tensors_;
  std::ifstream file_;
  std::vector<std::byte> buffer_;
};

// Writes one file whose tensors are known beforehand; their bytes come in that order, in pieces of any size.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    FloatFormat format{};
    std::vector<int64_t> shape;
  };
  // Errors are Error(kCheckpoint), as FileWriter's.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<Tensor>& tensors);
  void write(std::span<const std::byte> bytes);
  void close();  // every announced byte must have come

 private:
  base::FileWriter file_;
  uint64_t left_ = 0;
};

}  // namespace cadre::interop
