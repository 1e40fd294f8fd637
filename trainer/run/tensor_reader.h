// Elements of a checkpoint's tensors, read from whichever files hold them.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "trainer/run/checkpoint_index.h"

namespace cadre::trainer {

// Reads element ranges of tensors from a checkpoint's files.
class TensorReader {
 public:
  // Reads the index; whether the files are whole is newest_checkpoint's business.
  explicit TensorReader(std::filesystem::path folder);
  const CheckpointIndex& index() const { return index_; }
  const std::filesystem::path& folder() const { return folder_; }
  // As many files at a time: a checkpoint of a thousand ranks has more than a process may have open.
  static constexpr size_t kMostOpen = 128;
  // Throws Error(kCheckpoint) when the tensor is missing, has another shape, or cannot be read.
  void read(const std::string& tensor, const std::vector<int64_t>& shape, int64_t begin,
            std::span<float> out) {
    read(tensor, shape, {shape, 0, 1}, begin, out);
  }
  // The same with the elements counted in `order`, whatever the checkpoint's is.
  void read(const std::string& tensor, const std::vector<int64_t>& shape, const device::ElementOrder& order,
            int64_t begin, std::span<float> out);

 private:
  // In the checkpoint's own order.
  void read_stored(const std::string& tensor, const TensorInfo& info, int64_t begin, std::span<float> out);
  std::ifstream& file(const std::string& name);  // throws Error(kCheckpoint)

  std::filesystem::path folder_;
  CheckpointIndex index_;
  std::map<std::string, std::ifstream> open_;
};

}  // namespace cadre::trainer
