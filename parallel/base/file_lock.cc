#include "parallel/base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "parallel/base/errors.h"

namespace cadre::base {
namespace {

namespace fs = std::filesystem;

// The file stays open, so that the lock holds, unless somebody else holds it: -1.
int lock_once(const fs::path& file, int how) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  require(fd >= 0, ExitCode::kData, "cannot make the lock {}: {}", file.string(), std::strerror(errno));
  int failed = 0;
  do {
    failed = ::flock(fd, how);
  } while (failed != 0 && errno == EINTR);
  const int error = failed != 0 ? errno : 0;
  // A file that was removed or replaced before it was locked is nobody's lock any more.
  struct stat ours {
  }, theirs{};
  const bool same = failed == 0 && ::fstat(fd, &ours) == 0 && ::stat(file.c_str(), &theirs) == 0 &&
                    ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
  if (same) return fd;
  ::close(fd);
  require(error == 0 || error == EWOULDBLOCK, ExitCode::kData,
          "cannot lock {}: {}; it has to be on a file system with locks", file.string(),
          std::strerror(error));
  return -1;
}

}  // namespace

std::optional<FileLock> FileLock::take(const fs::path& file) {
  const int fd = lock_once(file, LOCK_EX | LOCK_NB);
  if (fd < 0) return std::nullopt;
  return FileLock(fd);
}

FileLock FileLock::wait_for(const fs::path& file) {
  while (true) {
    const int fd = lock_once(file, LOCK_EX);
    if (fd >= 0) return FileLock(fd);
  }
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace cadre::base
