#include "trainer/interop/safetensors.h"

#include <algorithm>
#include <cassert>
#include <nlohmann/json.hpp>
#include <set>

namespace cadre::interop {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr uint64_t kMaxSide = uint64_t(1) << 40;
constexpr size_t kMaxDims = 8;  // models have up to 3

template <class... Args>
[[noreturn]] void refuse(const fs::path& path, fmt::format_string<Args...> format, Args&&... args) {
  fail(ExitCode::kData, "{}: {}", path.string(), fmt::format(format, std::forward<Args>(args)...));
}

// For messages; a stranger's text may be long.
std::string shown(const json& value) {
  const std::string text = value.dump(-1, ' ', true);
  constexpr size_t kMost = 80;
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}

uint64_t little_endian(const std::string& bytes) {
  uint64_t value = 0;
  for (size_t i = kLengthBytes; i-- > 0;) value = value << 8 | uint8_t(bytes[i]);
  return value;
}

std::string read_header(const fs::path& path, std::ifstream& file, uint64_t file_bytes) {
  std::string length(kLengthBytes, '\0');
  file.read(length.data(), std::streamsize(kLengthBytes));
  if (!file) refuse(path, "{} bytes long, too short for a safetensors file", file_bytes);
  const uint64_t bytes = little_endian(length);
  if (bytes > kMaxHeader || bytes > file_bytes - kLengthBytes) {
    refuse(path, "its header is said to have {} bytes, the file has {} and a header at most {}", bytes,
           file_bytes, kMaxHeader);
  }
  std::string header(bytes, '\0');
  file.read(header.data(), std::streamsize(bytes));
  if (!file) refuse(path, "cannot read its header");
  if (!header.starts_with('{')) refuse(path, "its header is not JSON: not a safetensors file");
  return header;
}

// Deep nesting would only cost memory, and a name that comes twice leaves open which one counts.
json parse_header(const fs::path& path, const std::string& text) {
  std::vector<std::set<std::string>> names;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    constexpr int kDepth = 3;  // {tensor: {shape: [1]}}
    if (depth > kDepth) refuse(path, "its header is nested too deeply");
    if (event == json::parse_event_t::object_start) {
      names.emplace_back();
    } else if (event == json::parse_event_t::key && !names.back().insert(value.get<std::string>()).second) {
      refuse(path, "its header names {} twice", shown(value));
    } else if (event == json::parse_event_t::object_end) {
      names.pop_back();
    }
    return true;
  };
  try {
    json header = json::parse(text, check);
    if (!header.is_object()) refuse(path, "its header is not an object");
    return header;
  } catch (const json::exception& error) {
    refuse(path, "its header cannot be read: {}", error.what());
  }
}

// A whole number from 0 to max; anything else in its place is an error that names it.
uint64_t whole_number(const json& value, uint64_t max, const fs::path& path, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > max) {
    refuse(path, "{} is {}, expected a whole number up to {}", what, shown(value), max);
  }
  return value.get<uint64_t>();
}

const json& field(const json& entry, const char* key, const fs::path& path, const std::string& name) {
  if (!entry.is_object() || !entry.contains(key)) refuse(path, "tensor '{}' has no {}", name, key);
  return entry.at(key);
}

// Product of the dimensions; at most as many elements as the file has bytes, so that nothing overflows.
uint64_t count_elements(const std::vector<int64_t>& shape, uint64_t file_bytes, const fs::path& path,
                        const std::string& name) {
  uint64_t numel = 1;
  for (const int64_t d : shape) {
    if (d == 0) return 0;
    if (uint64_t(d) > file_bytes / numel) refuse(path, "tensor '{}' has more elements than the file", name);
    numel *= uint64_t(d);
  }
  return numel;
}

// data_bytes: of all tensors; begin: where they start in the file.
TensorEntry read_entry(const json& entry, const std::string& name, const fs::path& path, uint64_t begin,
                       uint64_t data_bytes) {
  TensorEntry tensor;
  const json &dtype = field(entry, "dtype", path, name), &shape = field(entry, "shape", path, name),
             &offsets = field(entry, "data_offsets", path, name);
  if (entry.size() != 3) refuse(path, "tensor '{}' has other fields than dtype, shape, data_offsets", name);
  const std::string where = fmt::format("{}: tensor '{}'", path.string(), name);
  if (!dtype.is_string()) refuse(path, "the dtype of tensor '{}' is not a text", name);
  tensor.format = format_from_tag(dtype.get<std::string>(), where);
  if (!shape.is_array() || shape.size() > kMaxDims) {
    refuse(path, "the shape of tensor '{}' is not a list of up to {} sizes", name, kMaxDims);
  }
  for (const json& d : shape) {
    tensor.shape.push_back(int64_t(whole_number(d, kMaxSide, path, "a size of tensor '" + name + "'")));
  }
  if (!offsets.is_array() || offsets.size() != 2) {
    refuse(path, "the data_offsets of tensor '{}' are not two numbers", name);
  }
  const uint64_t from = whole_number(offsets[0], data_bytes, path, "an offset of tensor '" + name + "'"),
                 to = whole_number(offsets[1], data_bytes, path, "an offset of tensor '" + name + "'");
  const uint64_t bytes =
      count_elements(tensor.shape, data_bytes, path, name) * uint64_t(size_of(tensor.format));
  if (to < from || to - from != bytes) {
    refuse(path, "tensor '{}' of shape ({}) needs {} bytes, its data_offsets are {} and {}", name,
           fmt::join(tensor.shape, ", "), bytes, from, to);
  }
  tensor.offset = begin + from;
  return tensor;
}

void check_metadata(const json& metadata, const fs::path& path) {
  const bool texts = metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                                         [](const json& v) { return v.is_string(); });
  if (!texts) refuse(path, "its __metadata__ is not a map of texts");
}

// In the order of their bytes, each tensor must begin where the one before ends.
void check_coverage(const std::map<std::string, TensorEntry>& tensors, const fs::path& path, uint64_t begin,
                    uint64_t file_bytes) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, t] : tensors) {
    ranges.emplace_back(t.offset, t.offset + uint64_t(t.numel() * size_of(t.format)));
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t covered = begin;
  for (const auto& [from, to] : ranges) {
    if (from != covered) refuse(path, "its tensors leave a gap or overlap at byte {}", covered);
    covered = to;
  }
  if (covered != file_bytes) {
    refuse(path, "its tensors end at byte {}, the file at {}: cut short, or not what its header says",
           covered, file_bytes);
  }
}

json header_json(const std::vector<SafetensorsWriter::Tensor>& tensors, uint64_t& data_bytes) {
  json header = {{"__metadata__", {{"format", "pt"}}}};  // the reference refuses to load files without it
  data_bytes = 0;
  for (const SafetensorsWriter::Tensor& t : tensors) {
    uint64_t bytes = uint64_t(size_of(t.format));
    for (const int64_t d : t.shape) bytes *= uint64_t(d);
    header[t.name] = {
        {"dtype", tag_of(t.format)}, {"shape", t.shape}, {"data_offsets", {data_bytes, data_bytes + bytes}}};
    data_bytes += bytes;
  }
  return header;
}

}  // namespace

int64_t TensorEntry::numel() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

SafetensorsFile::SafetensorsFile(fs::path path) : path_(std::move(path)) {
  std::error_code code;
  const uint64_t bytes = fs::file_size(path_, code);
  file_.open(path_, std::ios::binary);
  if (code || !file_) refuse(path_, "cannot be opened: {}", code ? code.message() : "no permission");
  const std::string text = read_header(path_, file_, bytes);
  const uint64_t begin = kLengthBytes + text.size();
  const json header = parse_header(path_, text);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      check_metadata(entry, path_);
    } else {
      tensors_[name] = read_entry(entry, name, path_, begin, bytes - begin);
    }
  }
  check_coverage(tensors_, path_, begin, bytes);
}

void SafetensorsFile::read_bytes(const TensorEntry& tensor, int64_t begin, std::span<std::byte> out) {
  const auto size = uint64_t(size_of(tensor.format));
  assert(begin >= 0 && uint64_t(begin) * size + out.size() <= uint64_t(tensor.numel()) * size);
  file_.seekg(std::streamoff(tensor.offset + uint64_t(begin) * size));
  file_.read(reinterpret_cast<char*>(out.data()), std::streamsize(out.size()));
  if (!file_) refuse(path_, "cannot be read at byte {}", tensor.offset + uint64_t(begin) * size);
}

void SafetensorsFile::read(const TensorEntry& tensor, int64_t begin, std::span<float> out) {
  buffer_.resize(out.size() * size_t(size_of(tensor.format)));
  read_bytes(tensor, begin, buffer_);
  decode(tensor.format, buffer_, out);
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, const std::vector<Tensor>& tensors)
    : file_(path, ExitCode::kCheckpoint) {
  std::string header = header_json(tensors, left_).dump();
  header.append((kLengthBytes - header.size() % kLengthBytes) % kLengthBytes, ' ');  // tensors start aligned
  std::string length;
  for (size_t i = 0; i < kLengthBytes; ++i) length.push_back(char(header.size() >> (8 * i)));
  file_.write(length);
  file_.write(header);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  assert(bytes.size() <= left_);
  left_ -= bytes.size();
  file_.write(bytes);
}

void SafetensorsWriter::close() {
  assert(left_ == 0);
  file_.close();
}

}  // namespace cadre::interop
