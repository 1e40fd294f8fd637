// Files, written so that a crash or a full disk never leaves half a file under its final name. All file output of
// Cadre goes through FileWriter, so that tests can make the disk fill up at any byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "parallel/base/errors.h"

namespace cadre::base {

namespace fs = std::filesystem;

// Incremental SHA-256; digests are lower-case hex, as sha256sum prints them.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  std::string hex();  // finishes; call once

 private:
  void* context_;
};
std::string sha256_file(const fs::path& path);  // throws Error(kData) when unreadable
std::string sha256_text(std::string_view text);

// Sequential writer to one path (created or truncated, mode 0600 by default). Hashes what it writes. Errors throw Error
// with the given code, naming the path and the reason ("No space left on device").
class FileWriter {
 public:
  FileWriter(const fs::path& path, ExitCode on_error);
  ~FileWriter();  // closes without a promise; call close() to learn of errors
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void close();  // flushes to the disk (fsync) and closes
  uint64_t bytes() const { return bytes_; }
  std::string sha256();  // of everything written; after close()

 private:
  fs::path path_;
  ExitCode on_error_;
  int fd_ = -1;
  uint64_t bytes_ = 0;
  Sha256 hash_;
};

// Writes path + ".tmp-<pid>-<random>", syncs, renames over path, syncs the folder; on failure it removes the temporary.
void write_file_atomic(const fs::path& path, std::string_view text, ExitCode on_error);
// Syncs what is renamed, and the parent folder after it.
void rename_durably(const fs::path& from, const fs::path& to, ExitCode on_error);
// The whole file; throws Error(on_error). max_bytes guards against a wrong or hostile file.
std::string read_file(const fs::path& path, ExitCode on_error, uint64_t max_bytes = uint64_t(1) << 32);

namespace testing {
// From now on, writes to paths containing `part` fail with `errno_value` after `bytes` more bytes. Empty part: off.
void fail_writes(const std::string& part, uint64_t bytes, int errno_value);
}  // namespace testing

}  // namespace cadre::base
