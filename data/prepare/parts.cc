#include "data/prepare/parts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

constexpr size_t kBuffer = size_t(1) << 18;  // a multiple of 8, so that only the last block is padded
constexpr uint64_t kMagic = 0x3130747261704443ull;

struct Footer {
  uint64_t magic = kMagic, body_bytes = 0, tail_bytes = 0, checksum = 0;
};

// Against torn writes, not against malice. Blocks but the last are multiples of 8 bytes.
uint64_t add_to_checksum(uint64_t checksum, std::span<const std::byte> bytes) {
  uint64_t word = 0;
  for (size_t i = 0; i < bytes.size(); i += sizeof word) {
    word = 0;
    std::memcpy(&word, bytes.data() + i, std::min(sizeof word, bytes.size() - i));
    checksum = base::mix(checksum ^ word);
  }
  return checksum;
}

}  // namespace

PartWriter::PartWriter(std::filesystem::path path)
    : path_(std::move(path)), temporary_(path_.string() + ".tmp") {
  file_ = std::make_unique<base::FileWriter>(temporary_, ExitCode::kData);
  buffer_.reserve(kBuffer);
}

PartWriter::~PartWriter() {
  if (!file_) return;
  file_.reset();
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void PartWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), kBuffer - buffer_.size());
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n));
    bytes = bytes.subspan(n);
    if (buffer_.size() == kBuffer) flush();
  }
}

void PartWriter::flush() {
  checksum_ = add_to_checksum(checksum_, buffer_);
  body_bytes_ += buffer_.size();
  file_->write(buffer_);
  buffer_.clear();
}

// Not synced: after a power cut the checksum finds what did not reach the disk, and the part is made again.
void PartWriter::finish(const std::string& tail) {
  flush();
  file_->write(tail);
  const Footer footer{kMagic, body_bytes_, tail.size(),
                      add_to_checksum(checksum_, std::as_bytes(std::span(tail.data(), tail.size())))};
  file_->write(std::as_bytes(std::span(&footer, 1)));
  file_.reset();
  require(::rename(temporary_.c_str(), path_.c_str()) == 0, ExitCode::kData, "cannot rename {} to {}: {}",
          temporary_.string(), path_.string(), std::strerror(errno));
}

PartReader::PartReader(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  require(fd_ >= 0, ExitCode::kData, "cannot open {}: {}", path.string(), std::strerror(errno));
  try {
    struct stat info {};
    Footer footer;
    const bool sized = ::fstat(fd_, &info) == 0 && static_cast<uint64_t>(info.st_size) >= sizeof footer;
    const uint64_t size = static_cast<uint64_t>(info.st_size);
    if (sized) read(size - sizeof footer, std::as_writable_bytes(std::span(&footer, 1)));
    require(sized && footer.magic == kMagic && footer.tail_bytes <= size &&
                footer.body_bytes + footer.tail_bytes + sizeof footer == size,
            ExitCode::kData, "{}: not a whole work file. Remove the folder it is in and prepare again",
            path.string());
    body_bytes_ = footer.body_bytes;
    checksum_ = footer.checksum;
    tail_.resize(footer.tail_bytes);
    read(body_bytes_, std::as_writable_bytes(std::span(tail_.data(), tail_.size())));
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

PartReader::~PartReader() {
  ::close(fd_);
}

void PartReader::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    require(n > 0, ExitCode::kData, "cannot read {}: {}", path_.string(),
            n < 0 ? std::strerror(errno) : "it became shorter while it was read");
    out = out.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

bool PartReader::matches_checksum() const {
  uint64_t checksum = 0;
  std::vector<std::byte> block(kBuffer);
  for (uint64_t offset = 0; offset < body_bytes_; offset += kBuffer) {
    const auto part = std::span(block).first(std::min<uint64_t>(kBuffer, body_bytes_ - offset));
    read(offset, part);
    checksum = add_to_checksum(checksum, part);
  }
  return add_to_checksum(checksum, std::as_bytes(std::span(tail_.data(), tail_.size()))) == checksum_;
}

bool is_whole_part(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return false;
  try {
    return PartReader(path).matches_checksum();
  } catch (const Error&) {
    return false;
  }
}

}  // namespace cadre::data
