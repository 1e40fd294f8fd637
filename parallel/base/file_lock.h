// A lock on a file that the kernel drops when its holder ends, however it ends (flock): between processes of one machine, and
// between machines where the file system passes such locks on (NFS 4; Lustre mounted with flock).
#pragma once

#include <filesystem>
#include <optional>

namespace cadre::base {

class FileLock {
 public:
  // Makes the file when it is missing. Nothing while somebody else holds it: another process, or another FileLock of
  // this one. Throws Error(kData) when the file cannot be made or locked.
  static std::optional<FileLock> take(const std::filesystem::path& file);
  // Waits for it.
  static FileLock wait_for(const std::filesystem::path& file);

  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace cadre::base
