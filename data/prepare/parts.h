// Files of the work folder that hold one worker's finished piece of work: a body of raw bytes, a tail (JSON)
// and a checksum. A part has its name only when it is whole; a restart checks it and keeps it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/base/files.h"

namespace cadre::data {

class PartWriter {
 public:
  explicit PartWriter(std::filesystem::path path);  // beside its final name until finish()
  ~PartWriter();                                    // removes an unfinished part
  // Throws Error(kData) when the disk is full, as finish() does.
  void write(std::span<const std::byte> bytes);
  template <class T>
  void put(const T& value) {
    write(std::as_bytes(std::span(&value, 1)));
  }
  void finish(const std::string& tail = {});

 private:
  void flush();
  std::filesystem::path path_, temporary_;
  std::unique_ptr<base::FileWriter> file_;
  std::vector<std::byte> buffer_;
  uint64_t body_bytes_ = 0, checksum_ = 0;
};

class PartReader {
 public:
  explicit PartReader(const std::filesystem::path& path);  // throws Error(kData) when it is not whole
  ~PartReader();
  PartReader(const PartReader&) = delete;
  PartReader& operator=(const PartReader&) = delete;
  uint64_t body_bytes() const { return body_bytes_; }
  // Of the body, from byte `offset` on; the caller stays inside. Throws Error(kData) when the file cannot be read.
  void read(uint64_t offset, std::span<std::byte> out) const;
  const std::string& tail() const { return tail_; }
  bool matches_checksum() const;  // reads all of it

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t body_bytes_ = 0, checksum_ = 0;
  std::string tail_;
};

// Reads the body front to back, as values of T, from number `first` on.
template <class T>
class PartStream {
 public:
  explicit PartStream(const std::filesystem::path& path, uint64_t first = 0)
      : part_(path), offset_(first * sizeof(T)), left_((part_.body_bytes() - offset_) / sizeof(T)) {}
  const PartReader& part() const { return part_; }
  bool next(T& value) {  // false at the end
    if (at_ == block_.size() && !refill()) return false;
    value = block_[at_++];
    return true;
  }

 private:
  bool refill() {
    constexpr uint64_t kBlockBytes = uint64_t(1) << 16;
    block_.resize(std::min<uint64_t>(left_, std::max<uint64_t>(1, kBlockBytes / sizeof(T))));
    part_.read(offset_, std::as_writable_bytes(std::span(block_)));
    offset_ += block_.size() * sizeof(T);
    left_ -= block_.size();
    at_ = 0;
    return !block_.empty();
  }
  PartReader part_;
  uint64_t offset_, left_;
  std::vector<T> block_;
  size_t at_ = 0;
};

// Whether a finished part of this name exists and is undamaged. For restarts.
bool is_whole_part(const std::filesystem::path& path);

}  // namespace cadre::data
