#include "trainer/run/tensor_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "parallel/base/errors.h"
#include "parallel/device/bf16.h"
#include "trainer/run/checkpoint_folder.h"

namespace cadre::trainer {

TensorReader::TensorReader(std::filesystem::path folder)
    : folder_(std::move(folder)), index_(read_index(folder_)) {}

std::ifstream& TensorReader::file(const std::string& name) {
  const auto found = open_.find(name);
  if (found != open_.end()) return found->second;
  if (open_.size() == kMostOpen) open_.clear();
  std::ifstream file(folder_ / name, std::ios::binary);
  require(file.is_open(), ExitCode::kCheckpoint, "cannot open {}: {}", (folder_ / name).string(),
          std::strerror(errno));
  return open_.emplace(name, std::move(file)).first->second;
}

void TensorReader::read(const std::string& tensor, const std::vector<int64_t>& shape,
                        const device::ElementOrder& order, int64_t begin, std::span<float> out) {
  const auto found = index_.tensors.find(tensor);
  require(found != index_.tensors.end(), ExitCode::kCheckpoint, "{}: no tensor '{}'", folder_.string(),
          tensor);
  const TensorInfo& info = found->second;
  require(info.shape == shape, ExitCode::kCheckpoint, "{}: tensor '{}' has shape ({}), expected ({})",
          folder_.string(), tensor, fmt::join(info.shape, ", "), fmt::join(shape, ", "));
  const device::ElementOrder stored = info.order();
  if (stored == order) return read_stored(tensor, info, begin, out);
  for (int64_t done = 0; done < int64_t(out.size());) {
    const int64_t plain = order.plain(begin + done), from = stored.from_plain(plain);
    const int64_t count =
        std::min({order.run_from(begin + done), stored.run_from(from), int64_t(out.size()) - done});
    read_stored(tensor, info, from, out.subspan(size_t(done), size_t(count)));
    done += count;
  }
}

void TensorReader::read_stored(const std::string& tensor, const TensorInfo& info, int64_t begin,
                               std::span<float> out) {
  const int64_t end = begin + int64_t(out.size());
  for (const TensorPiece& piece : info.pieces) {
    const int64_t from = std::max(begin, piece.begin), to = std::min(end, piece.begin + piece.count);
    if (from >= to) continue;
    std::ifstream& file = this->file(piece.file);
    const size_t element = element_bytes(info.dtype);
    file.seekg(std::streamoff(piece.offset + uint64_t(from - piece.begin) * element));
    const std::span<float> part = out.subspan(size_t(from - begin), size_t(to - from));
    if (info.dtype == kBfloat16) {
      std::vector<device::bf16> narrow(part.size());
      file.read(reinterpret_cast<char*>(narrow.data()), std::streamsize(narrow.size() * element));
      std::copy(narrow.begin(), narrow.end(), part.begin());
    } else {
      file.read(reinterpret_cast<char*>(part.data()), std::streamsize(part.size() * element));
    }
    require(bool(file), ExitCode::kCheckpoint, "cannot read tensor '{}' from {}", tensor,
            (folder_ / piece.file).string());
  }
}

}  // namespace cadre::trainer
