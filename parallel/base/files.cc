#include "parallel/base/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <random>
#include <vector>

namespace cadre::base {
namespace {

// State of testing::fail_writes. `armed` keeps ordinary writes free of the lock.
struct WriteFault {
  std::atomic<bool> armed = false;
  std::mutex mutex;
  std::string part;
  uint64_t bytes_left = 0;
  int errno_value = 0;
};
WriteFault& write_fault() {
  static WriteFault fault;
  return fault;
}

// write(2), unless a test has filled the disk.
ssize_t write_some(int fd, const fs::path& path, const std::byte* data, size_t size) {
  WriteFault& fault = write_fault();
  if (fault.armed.load(std::memory_order_acquire)) {
    std::lock_guard lock(fault.mutex);
    if (!fault.part.empty() && path.string().find(fault.part) != std::string::npos) {
      if (fault.bytes_left == 0) {
        errno = fault.errno_value;
        return -1;
      }
      size = std::min<uint64_t>(size, fault.bytes_left);
      fault.bytes_left -= size;
    }
  }
  return ::write(fd, data, size);
}

template <class Call>
auto retry_interrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

std::string reason() {
  return std::strerror(errno);
}

// Closes on every way out.
struct OpenFile {
  int fd;
  ~OpenFile() {
    if (fd >= 0) ::close(fd);
  }
};

int open_for_reading(const fs::path& path, ExitCode on_error) {
  const int fd = retry_interrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
  require(fd >= 0, on_error, "cannot open {}: {}", path.string(), reason());
  struct stat info {};
  if (::fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) {
    ::close(fd);
    fail(on_error, "cannot read {}: it is a folder", path.string());
  }
  return fd;
}

// A file's content, or a folder's names.
void sync(const fs::path& path, ExitCode on_error) {
  OpenFile file{retry_interrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); })};
  require(file.fd >= 0, on_error, "cannot open {}: {}", path.string(), reason());
  // Some network file systems cannot sync a folder and say EINVAL.
  const int result = retry_interrupted([&] { return ::fsync(file.fd); });
  require(result == 0 || errno == EINVAL, on_error, "cannot sync {}: {}", path.string(), reason());
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr ||
      EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("OpenSSL cannot compute SHA-256");
  }
}

Sha256::~Sha256() {
  EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_));
}

void Sha256::update(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), bytes.data(), bytes.size());
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), digest, &size);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string sha256_text(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex();
}

std::string sha256_file(const fs::path& path) {
  OpenFile file{open_for_reading(path, ExitCode::kData)};
  std::vector<std::byte> block(1 << 18);
  Sha256 hash;
  for (;;) {
    const ssize_t n = retry_interrupted([&] { return ::read(file.fd, block.data(), block.size()); });
    require(n >= 0, ExitCode::kData, "cannot read {}: {}", path.string(), reason());
    if (n == 0) return hash.hex();
    hash.update(std::span(block).first(size_t(n)));
  }
}

FileWriter::FileWriter(const fs::path& path, ExitCode on_error) : path_(path), on_error_(on_error) {
  constexpr mode_t kOwnerOnly = 0600;
  fd_ = retry_interrupted(
      [&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kOwnerOnly); });
  require(fd_ >= 0, on_error, "cannot create {}: {}", path.string(), reason());
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::write(std::span<const std::byte> bytes) {
  require(fd_ >= 0, on_error_, "cannot write {}: it is closed", path_.string());
  hash_.update(bytes);
  bytes_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t n = retry_interrupted([&] { return write_some(fd_, path_, bytes.data(), bytes.size()); });
    require(n >= 0, on_error_, "cannot write {}: {}", path_.string(), reason());
    bytes = bytes.subspan(size_t(n));
  }
}

void FileWriter::close() {
  if (fd_ < 0) return;
  // EINVAL: not a regular file (a pipe, /dev/null), where there is nothing to sync.
  const int synced = retry_interrupted([&] { return ::fsync(fd_); });
  require(synced == 0 || errno == EINVAL, on_error_, "cannot sync {}: {}", path_.string(), reason());
  // After EINTR from close() Linux has closed the descriptor; calling it again could close someone else's.
  const int closed = ::close(std::exchange(fd_, -1));
  require(closed == 0 || errno == EINTR, on_error_, "cannot close {}: {}", path_.string(), reason());
}

std::string FileWriter::sha256() {
  return hash_.hex();
}

void write_file_atomic(const fs::path& path, std::string_view text, ExitCode on_error) {
  // Processes of several containers that share the folder may have one number, and so have threads.
  const fs::path temporary =
      fmt::format("{}.tmp-{}-{:08x}", path.string(), ::getpid(), std::random_device()());
  try {
    FileWriter writer(temporary, on_error);
    writer.write(text);
    writer.close();
    rename_durably(temporary, path, on_error);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void rename_durably(const fs::path& from, const fs::path& to, ExitCode on_error) {
  if (fs::exists(from)) sync(from, on_error);
  require(::rename(from.c_str(), to.c_str()) == 0, on_error, "cannot rename {} to {}: {}", from.string(),
          to.string(), reason());
  sync(to.has_parent_path() ? to.parent_path() : fs::path("."), on_error);
}

std::string read_file(const fs::path& path, ExitCode on_error, uint64_t max_bytes) {
  OpenFile file{open_for_reading(path, on_error)};
  std::string text;
  std::vector<char> block(1 << 16);
  for (;;) {
    const ssize_t n = retry_interrupted([&] { return ::read(file.fd, block.data(), block.size()); });
    require(n >= 0, on_error, "cannot read {}: {}", path.string(), reason());
    if (n == 0) return text;
    text.append(block.data(), size_t(n));
    require(text.size() <= max_bytes, on_error,
            "cannot read {}: it is larger than the expected {} bytes at most", path.string(), max_bytes);
  }
}

void testing::fail_writes(const std::string& part, uint64_t bytes, int errno_value) {
  WriteFault& fault = write_fault();
  std::lock_guard lock(fault.mutex);
  fault.part = part;
  fault.bytes_left = bytes;
  fault.errno_value = errno_value;
  fault.armed.store(!part.empty(), std::memory_order_release);
}

}  // namespace cadre::base
