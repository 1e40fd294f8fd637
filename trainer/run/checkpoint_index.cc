#include "trainer/run/checkpoint_index.h"

#include <algorithm>

#include "parallel/base/blackbox.h"
#include "parallel/base/files.h"
#include "parallel/base/json_depth.h"
#include "parallel/base/json_whole.h"

namespace cadre::trainer {
namespace {

using nlohmann::json;

template <class T>
T whole(const json& value) {
  return base::whole<T>(value, ExitCode::kCheckpoint);
}

json piece_json(const TensorPiece& p) {
  return {{"file", p.file}, {"offset", p.offset}, {"begin", p.begin}, {"count", p.count}};
}

json files_json(const CheckpointIndex& index) {
  json files = json::object();
  for (const auto& [name, info] : index.files) files[name] = {{"bytes", info.bytes}, {"sha256", info.sha256}};
  return files;
}

json tensors_json(const CheckpointIndex& index) {
  json tensors = json::object();
  for (const auto& [name, tensor] : index.tensors) {
    json pieces = json::array();
    for (const TensorPiece& p : tensor.pieces) pieces.push_back(piece_json(p));
    tensors[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"pieces", pieces}};
    if (tensor.parts > 1) tensors[name]["order"] = {{"axis", tensor.axis}, {"parts", tensor.parts}};
  }
  return tensors;
}

// A name inside the folder, never a way out of it.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos && name != "." && name != "..";
}

TensorInfo read_tensor(const std::string& name, const json& j, const std::map<std::string, FileInfo>& files) {
  TensorInfo t;
  t.dtype = j.at("dtype").get<std::string>();
  require(t.dtype == kFloat32 || t.dtype == kBfloat16, ExitCode::kCheckpoint,
          "tensor {} has type '{}', expected float32 or bfloat16", name, t.dtype);
  t.shape = base::wholes<int64_t>(j.at("shape"), ExitCode::kCheckpoint);
  int64_t numel = 1;
  for (int64_t d : t.shape) {
    require(d > 0 && d < (int64_t(1) << 40) && numel < (int64_t(1) << 44) / d, ExitCode::kCheckpoint,
            "tensor {} has an impossible shape", name);
    numel *= d;
  }
  if (j.contains("order")) {
    t.axis = whole<int>(j.at("order").at("axis"));
    t.parts = whole<int>(j.at("order").at("parts"));
    require(t.axis >= 0 && size_t(t.axis) < t.shape.size() && t.parts > 0 &&
                t.shape[size_t(t.axis)] % t.parts == 0,
            ExitCode::kCheckpoint, "tensor {} has an impossible order: {} parts of axis {}", name, t.parts,
            t.axis);
  }
  for (const json& p : j.at("pieces")) {
    t.pieces.push_back({p.at("file").get<std::string>(), whole<uint64_t>(p.at("offset")),
                        whole<int64_t>(p.at("begin")), whole<int64_t>(p.at("count"))});
  }
  std::sort(t.pieces.begin(), t.pieces.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  int64_t covered = 0;
  for (const TensorPiece& p : t.pieces) {
    const auto file = files.find(p.file);
    require(file != files.end(), ExitCode::kCheckpoint, "tensor {} points to the unlisted file '{}'", name,
            p.file);
    require(p.begin == covered && p.count > 0 && p.count <= numel - covered, ExitCode::kCheckpoint,
            "tensor {}: its pieces leave a gap or overlap at element {} of {}", name, covered, numel);
    require(p.offset <= file->second.bytes &&
                uint64_t(p.count) * element_bytes(t.dtype) <= file->second.bytes - p.offset,
            ExitCode::kCheckpoint, "tensor {}: a piece lies outside of {}", name, p.file);
    covered += p.count;
  }
  require(covered == numel, ExitCode::kCheckpoint, "tensor {}: pieces hold {} of {} elements", name, covered,
          numel);
  return t;
}

CheckpointIndex parse(const json& j) {
  CheckpointIndex index;
  const int version = whole<int>(j.at("format_version"));
  require(version == CheckpointIndex::kFormatVersion, ExitCode::kCheckpoint,
          "format version {}, this build reads {}; use the build that wrote it", version,
          CheckpointIndex::kFormatVersion);
  index.step = whole<uint64_t>(j.at("step"));
  for (const auto& [name, info] : j.at("files").items()) {
    require(is_plain_name(name), ExitCode::kCheckpoint, "bad file name '{}'", name);
    index.files[name] = {whole<uint64_t>(info.at("bytes")), info.at("sha256").get<std::string>()};
  }
  for (const auto& [name, tensor] : j.at("tensors").items()) {
    index.tensors[name] = read_tensor(name, tensor, index.files);
  }
  index.state = j.at("state");
  index.run = j.at("run");
  index.config = j.at("config").get<std::string>();
  index.tokenizer = j.at("tokenizer").get<std::string>();
  require(index.tokenizer.empty() || index.files.contains(index.tokenizer), ExitCode::kCheckpoint,
          "the tokenizer '{}' is not among the files", index.tokenizer);
  index.manifest_hash = j.at("manifest_sha256").get<std::string>();
  return index;
}

}  // namespace

int64_t TensorInfo::numel() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::string to_json(const CheckpointIndex& index) {
  const json j = {{"format_version", CheckpointIndex::kFormatVersion},
                  {"step", index.step},
                  {"files", files_json(index)},
                  {"tensors", tensors_json(index)},
                  {"state", index.state},
                  {"run", index.run},
                  {"config", index.config},
                  {"tokenizer", index.tokenizer},
                  {"manifest_sha256", index.manifest_hash}};
  return j.dump(1) + "\n";
}

std::string part_json(const CheckpointIndex& index) {
  return json{{"files", files_json(index)}, {"tensors", tensors_json(index)}}.dump();
}

void merge_part(CheckpointIndex& whole, const std::string& part) {
  const json parsed = json::parse(part);
  for (const auto& [name, info] : parsed["files"].items())
    whole.files[name] = {info["bytes"], info["sha256"]};
  for (const auto& [name, tensor] : parsed["tensors"].items()) {
    TensorInfo& known = whole.tensors[name];
    known.dtype = tensor["dtype"];
    known.shape = tensor["shape"].get<std::vector<int64_t>>();
    if (tensor.contains("order")) {
      known.axis = tensor["order"]["axis"];
      known.parts = tensor["order"]["parts"];
    }
    for (const json& p : tensor["pieces"])
      known.pieces.push_back({p["file"], p["offset"], p["begin"], p["count"]});
  }
}

void write_index(const CheckpointIndex& index, const std::filesystem::path& folder) {
  const auto write = [&](const char* name, const std::string& text) {
    base::FileWriter writer(folder / name, ExitCode::kCheckpoint);
    writer.write(text);
    writer.close();
  };
  const std::string text = to_json(index);
  write(kIndexFile, text);
  write(kIndexHashFile, base::sha256_text(text) + "  " + kIndexFile + "\n");
}

CheckpointIndex read_index(const std::filesystem::path& folder) {
  const std::string text = base::read_file(folder / kIndexFile, ExitCode::kCheckpoint);
  std::string expected = base::read_file(folder / kIndexHashFile, ExitCode::kCheckpoint, 1024);
  expected = expected.substr(0, expected.find_first_of(" \n"));
  const std::string found = base::sha256_text(text);
  require(found == expected, ExitCode::kCheckpoint, "{}: SHA-256 is {}, expected {} ({})",
          (folder / kIndexFile).string(), found, expected, kIndexHashFile);
  require(base::json_depth(text) <= base::kMaxJsonDepth, ExitCode::kCheckpoint, "{}: nested too deeply",
          (folder / kIndexFile).string());
  try {
    return parse(json::parse(text));
  } catch (const json::exception& error) {
    fail(ExitCode::kCheckpoint, "{}: {}", (folder / kIndexFile).string(), error.what());
  } catch (const Error& error) {
    fail(ExitCode::kCheckpoint, "{}: {}", (folder / kIndexFile).string(), error.what());
  }
}

std::string check_files(const CheckpointIndex& index, const std::filesystem::path& folder, int first,
                        int stride) {
  int at = 0;
  for (const auto& [name, info] : index.files) {
    if (at++ % stride != first) continue;
    base::enter(base::Phase::kCheckpoint);  // many of them take longer than a rank may stand still
    const std::filesystem::path path = folder / name;
    std::error_code code;
    const uint64_t bytes = std::filesystem::file_size(path, code);
    if (code) return fmt::format("{}: {}", path.string(), code.message());
    if (bytes != info.bytes)
      return fmt::format("{}: {} bytes, expected {}", path.string(), bytes, info.bytes);
    try {
      if (base::sha256_file(path) != info.sha256)
        return fmt::format("{}: its SHA-256 differs from the index", path.string());
    } catch (const Error& error) {
      return error.what();
    }
  }
  return "";
}

}  // namespace cadre::trainer
