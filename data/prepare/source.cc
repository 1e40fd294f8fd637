#include "data/prepare/source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace cadre::data {
namespace {

[[noreturn]] void unreadable(const std::string& what) {
  throw SourceError(SourceError::Kind::kUnreadable, fmt::format("{}: {}", what, std::strerror(errno)));
}
[[noreturn]] void damaged(const std::string& what) {
  throw SourceError(SourceError::Kind::kDamaged, what);
}

class PlainSource final : public Source {
 public:
  PlainSource(const InputFile& file, uint64_t offset) : fd_(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) unreadable("cannot open");
    struct stat info {};
    const bool regular = ::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);
    if (!regular || ::lseek(fd_, static_cast<off_t>(offset), SEEK_SET) < 0) {
      ::close(fd_);
      throw SourceError(SourceError::Kind::kUnreadable, "not a regular file");
    }
  }
  ~PlainSource() override { ::close(fd_); }
  PlainSource(const PlainSource&) = delete;
  PlainSource& operator=(const PlainSource&) = delete;

  size_t read(std::span<char> out) override {
    for (;;) {
      const ssize_t n = ::read(fd_, out.data(), out.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) unreadable("cannot read");
      consumed_ += static_cast<uint64_t>(n);
      return static_cast<size_t>(n);
    }
  }
  uint64_t consumed() const override { return consumed_; }

 private:
  int fd_;
  uint64_t consumed_ = 0;
};

// Input buffer of a decompressor.
class Compressed : public Source {
 public:
  explicit Compressed(const InputFile& file) : file_(file, 0), buffer_(size_t(1) << 17) {}
  uint64_t consumed() const override { return file_.consumed(); }

 protected:
  // False at the end of the file.
  bool refill() {
    begin_ = 0;
    end_ = file_.read(buffer_);
    return end_ > 0;
  }
  PlainSource file_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;  // unread part of the buffer
};

class GzipSource final : public Compressed {
 public:
  explicit GzipSource(const InputFile& file) : Compressed(file) {
    constexpr int kGzipOnly = 15 + 16;
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  size_t read(std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(out.size(), size_t(1) << 30));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (begin_ == end_ && !refill()) {
        if (inside_) damaged("the gzip data ends too early: the file was cut off");
        break;
      }
      inside_ = true;
      stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data() + begin_);
      stream_.avail_in = static_cast<uInt>(end_ - begin_);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      begin_ = end_ - stream_.avail_in;
      if (result == Z_STREAM_END) {
        inside_ = false;  // another member may follow
        inflateReset(&stream_);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        damaged(fmt::format("not valid gzip data: {}", stream_.msg != nullptr ? stream_.msg : "unknown"));
      }
    }
    return wanted - stream_.avail_out;
  }

 private:
  z_stream stream_ = {};
  bool inside_ = true;  // of a member; an empty file is no gzip file either
};

class ZstdSource final : public Compressed {
 public:
  explicit ZstdSource(const InputFile& file)
      : Compressed(file), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    if (!stream_) throw std::bad_alloc();
  }
  size_t read(std::span<char> out) override {
    ZSTD_outBuffer target{out.data(), out.size(), 0};
    while (target.pos == 0) {
      if (begin_ == end_ && !refill()) {
        if (inside_) damaged("the zstd data ends too early: the file was cut off");
        break;
      }
      ZSTD_inBuffer source{buffer_.data(), end_, begin_};
      const size_t left = ZSTD_decompressStream(stream_.get(), &target, &source);
      begin_ = source.pos;
      if (ZSTD_isError(left)) damaged(fmt::format("not valid zstd data: {}", ZSTD_getErrorName(left)));
      inside_ = left != 0;
    }
    return target.pos;
  }

 private:
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  bool inside_ = true;
};

}  // namespace

std::unique_ptr<Source> open_source(const InputFile& file, uint64_t offset) {
  switch (file.compression) {
    case Compression::kGzip:
      return std::make_unique<GzipSource>(file);
    case Compression::kZstd:
      return std::make_unique<ZstdSource>(file);
    case Compression::kNone:
      break;
  }
  return std::make_unique<PlainSource>(file, offset);
}

}  // namespace cadre::data
