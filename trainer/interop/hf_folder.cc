#include "trainer/interop/hf_folder.h"

#include <set>

#include "data/tokenizers/json_fields.h"

namespace cadre::interop {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMaxIndexBytes = uint64_t(1) << 27, kMaxConfigBytes = uint64_t(1) << 22;

json read_json(const fs::path& file, uint64_t max_bytes) {
  return data::parse_json(base::read_file(file, ExitCode::kData, max_bytes), file.string());
}

// weight_map: {tensor: file}.
std::map<std::string, std::string> read_weight_map(const fs::path& file) {
  const json document = read_json(file, kMaxIndexBytes);
  const data::JsonFields index(document, file.string());
  const data::JsonFields map = index.object("weight_map");
  std::map<std::string, std::string> files;
  for (const auto& [tensor, name] : index.value("weight_map").items()) {
    const bool plain = name.is_string() && name.get<std::string>().find('/') == std::string::npos &&
                       fs::path(name.get<std::string>()).extension() == ".safetensors";
    require(plain, ExitCode::kData, "{}: the file of '{}' is not a name that ends in .safetensors",
            map.where(), tensor);
    files[tensor] = name.get<std::string>();
  }
  return files;
}

}  // namespace

HfWeights::HfWeights(const fs::path& folder) {
  if (!fs::exists(folder / kWeightsIndexFile)) {
    require(fs::exists(folder / kWeightsFile), ExitCode::kData,
            "{}: found neither {} nor {}; other formats of weights have to be converted first",
            folder.string(), kWeightsFile, kWeightsIndexFile);
    open(folder / kWeightsFile);
    return;
  }
  const auto map = read_weight_map(folder / kWeightsIndexFile);
  std::set<std::string> files;
  for (const auto& [tensor, file] : map) files.insert(file);
  for (const std::string& file : files) open(folder / file);
  for (const auto& [tensor, place] : place_) {
    const auto found = map.find(tensor);
    const std::string file = place.file->path().filename().string();
    require(found != map.end() && found->second == file, ExitCode::kData,
            "{}: tensor '{}' is in {}, which {} does not say", folder.string(), tensor, file,
            kWeightsIndexFile);
  }
  for (const auto& [tensor, file] : map) {
    require(place_.contains(tensor), ExitCode::kData, "{}: tensor '{}' is not in {}, where {} has it",
            folder.string(), tensor, file, kWeightsIndexFile);
  }
}

void HfWeights::open(const fs::path& path) {
  files_.push_back(std::make_unique<SafetensorsFile>(path));
  for (const auto& [name, entry] : files_.back()->tensors()) {
    const auto [at, fresh] = place_.emplace(name, Place{files_.back().get(), &entry});
    require(fresh, ExitCode::kData, "{}: tensor '{}' is also in {}", path.string(), name,
            at->second.file->path().filename().string());
  }
}

std::vector<std::string> HfWeights::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : place_) names.push_back(name);
  return names;
}

uint64_t HfWeights::bytes() const {
  uint64_t sum = 0;
  for (const auto& [name, place] : place_)
    sum += uint64_t(place.entry->numel() * size_of(place.entry->format));
  return sum;
}

void HfWeights::read(const std::string& name, int64_t begin, std::span<float> out) {
  const Place& place = place_.at(name);
  place.file->read(*place.entry, begin, out);
}

json read_config_json(const fs::path& folder) {
  return read_json(folder / kConfigFile, kMaxConfigBytes);
}

std::vector<std::string> companion_files(const fs::path& folder) {
  std::vector<std::string> found;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                           "chat_template.jinja", "chat_template.json", "generation_config.json"}) {
    if (fs::is_regular_file(folder / name)) found.emplace_back(name);
  }
  return found;
}

}  // namespace cadre::interop
