// A published model's folder: config.json, one safetensors file or several with an index, tokenizer files.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/interop/safetensors.h"

namespace cadre::interop {

// All tensors of a folder, whichever files they are in.
class HfWeights {
 public:
  // Reads the headers of all files. Throws Error(kData), also when index and files do not say the same.
  explicit HfWeights(const std::filesystem::path& folder);
  size_t size() const { return place_.size(); }
  bool has(const std::string& name) const { return place_.contains(name); }
  const TensorEntry& at(const std::string& name) const { return *place_.at(name).entry; }
  std::vector<std::string> names() const;  // sorted
  uint64_t bytes() const;                  // of all tensors
  // Elements [begin, begin + out.size()) of a tensor, flattened.
  void read(const std::string& name, int64_t begin, std::span<float> out);

 private:
  struct Place {
    SafetensorsFile* file = nullptr;
    const TensorEntry* entry = nullptr;
  };
  void open(const std::filesystem::path& path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Place> place_;
};

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kWeightsIndexFile = "model.safetensors.index.json";

nlohmann::json read_config_json(const std::filesystem::path& folder);
// Files beside the weights that go along unchanged: the tokenizer's, chat template, generation defaults. Those
// of the known names that are there.
std::vector<std::string> companion_files(const std::filesystem::path& folder);

}  // namespace cadre::interop
