#include "parallel/base/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/base/json_depth.h"
#include "parallel/base/log.h"
#include "tests/temp_folder.h"

namespace {
std::mutex synced_mutex;
std::vector<std::string> synced_paths;  // what fsync was called with, under the name that it had
}  // namespace

// In place of the library's.
extern "C" int fsync(int fd) {
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = readlink(link.c_str(), path, sizeof path);
  if (size > 0) {
    std::lock_guard lock(synced_mutex);
    synced_paths.emplace_back(path, size_t(size));
  }
  return int(syscall(SYS_fsync, fd));
}

namespace cadre::base {
namespace {

class Files : public ::testing::Test {
 protected:
  void TearDown() override { testing::fail_writes("", 0, 0); }
  size_t entries() const {
    return size_t(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  const test::TempFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

template <class Body>
std::string error_of(ExitCode code, Body body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "no error";
}

TEST(Sha256Digest, MatchesTheStandardsExamples) {  // FIPS 180-2, appendix B
  EXPECT_EQ(sha256_text("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_text(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 parts;
  for (int i = 0; i < 1000; ++i) parts.update(std::string(1000, 'a'));
  EXPECT_EQ(parts.hex(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_F(Files, WriterWritesCountsAndHashes) {
  const fs::path path = folder_ / "a";
  FileWriter writer(path, ExitCode::kData);
  writer.write("hello ");
  writer.write("");
  writer.write(std::string(100000, 'x'));
  writer.close();
  writer.close();
  const std::string text = "hello " + std::string(100000, 'x');
  EXPECT_EQ(read_file(path, ExitCode::kData), text);
  EXPECT_EQ(writer.bytes(), text.size());
  EXPECT_EQ(writer.sha256(), sha256_text(text));
  EXPECT_EQ(sha256_file(path), sha256_text(text));
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u & 0777u);
}

// Else a crash of the machine could leave the new name with old or no content.
TEST_F(Files, WhatIsRenamedIsOnTheDiskBefore) {
  std::ofstream(folder_ / "a") << "text";
  fs::create_directory(folder_ / ".tmp-b");
  synced_paths.clear();
  rename_durably(folder_ / "a", folder_ / "c", ExitCode::kData);
  rename_durably(folder_ / ".tmp-b", folder_ / "b", ExitCode::kData);
  EXPECT_EQ(synced_paths, (std::vector<std::string>{folder_ / "a", folder_, folder_ / ".tmp-b", folder_}));
}

// As ranks do that share a folder, also from containers whose processes have equal numbers.
TEST_F(Files, SeveralWritersOfOneFileDoNotDisturbEachOther) {
  std::vector<std::thread> writers;
  std::atomic<int> failures = 0;
  for (int w = 0; w < 8; ++w) {
    writers.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        try {
          write_file_atomic(folder_ / "a", "text", ExitCode::kData);
        } catch (const Error&) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(read_file(folder_ / "a", ExitCode::kData), "text");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, ErrorsNameThePathTheReasonAndTheCode) {
  const std::string dir = folder_.string();
  EXPECT_EQ(error_of(ExitCode::kData, [&] { sha256_file(folder_ / "none"); }),
            "cannot open " + dir + "/none: No such file or directory");
  EXPECT_EQ(error_of(ExitCode::kCheckpoint, [&] { FileWriter(folder_ / "no" / "x", ExitCode::kCheckpoint); }),
            "cannot create " + dir + "/no/x: No such file or directory");
  EXPECT_EQ(error_of(ExitCode::kData, [&] { read_file(folder_, ExitCode::kData); }),
            "cannot read " + dir + ": it is a folder");
  std::ofstream(folder_ / "big") << std::string(1000, 'x');
  EXPECT_EQ(error_of(ExitCode::kData, [&] { read_file(folder_ / "big", ExitCode::kData, 999); }),
            "cannot read " + dir + "/big: it is larger than the expected 999 bytes at most");
  EXPECT_EQ(read_file(folder_ / "big", ExitCode::kData, 1000).size(), 1000u);
  EXPECT_NE(
      error_of(ExitCode::kData, [&] { rename_durably(folder_ / "none", folder_ / "x", ExitCode::kData); })
          .find("cannot rename"),
      std::string::npos);
}

TEST_F(Files, AtomicWriteReplacesTheWholeFile) {
  const fs::path path = folder_ / "state.json";
  write_file_atomic(path, "first, and longer", ExitCode::kCheckpoint);
  write_file_atomic(path, "second", ExitCode::kCheckpoint);
  EXPECT_EQ(read_file(path, ExitCode::kData), "second");
  EXPECT_EQ(entries(), 1u) << "a temporary file was left";
}

TEST_F(Files, AFullDiskAtAnyByteKeepsTheOldContent) {
  const fs::path path = folder_ / "state.json";
  const std::string text = "0123456789";
  write_file_atomic(path, "old", ExitCode::kCheckpoint);
  for (uint64_t at = 0; at < text.size(); ++at) {
    testing::fail_writes("state.json", at, ENOSPC);
    const std::string error =
        error_of(ExitCode::kCheckpoint, [&] { write_file_atomic(path, text, ExitCode::kCheckpoint); });
    EXPECT_NE(error.find("No space left on device"), std::string::npos) << error;
    EXPECT_NE(error.find(path.string()), std::string::npos) << error;
    testing::fail_writes("", 0, 0);
    EXPECT_EQ(read_file(path, ExitCode::kData), "old") << "after " << at << " bytes";
    EXPECT_EQ(entries(), 1u) << "a temporary file was left";
  }
  testing::fail_writes("state.json", text.size(), ENOSPC);
  EXPECT_NO_THROW(write_file_atomic(path, text, ExitCode::kCheckpoint));
  EXPECT_EQ(read_file(path, ExitCode::kData), text);
}

TEST_F(Files, InjectedFaultsHitOnlyTheNamedPaths) {
  testing::fail_writes("victim", 0, EIO);
  EXPECT_NO_THROW(write_file_atomic(folder_ / "other", "x", ExitCode::kData));
  EXPECT_NE(error_of(ExitCode::kData, [&] { write_file_atomic(folder_ / "victim", "x", ExitCode::kData); })
                .find("Input/output error"),
            std::string::npos);
}

TEST(JsonDepth, CountsOpenBracketsOutsideOfTexts) {
  EXPECT_EQ(json_depth("1"), 0);
  EXPECT_EQ(json_depth(R"({"a": [1, {}], "b": []})"), 3);
  EXPECT_EQ(json_depth(R"(["[[[", "\"[[", "\\", [1]])"), 2);
  EXPECT_EQ(json_depth(R"(["]", ["]", ["]"]]])"), 3);
  EXPECT_EQ(json_depth(std::string(1000, '[')), 1000);
}

TEST_F(Files, TheLogFileTakesEveryLevelOfEveryRank) {
  const fs::path path = folder_ / "logs" / "log.rank3";
  ::testing::internal::CaptureStderr();
  init_log(3, path);
  spdlog::info("quiet on the console");
  spdlog::warn("seen from every rank");
  const std::string console = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(console.find("quiet"), std::string::npos);
  EXPECT_NE(console.find("[rank 3]"), std::string::npos);
  const std::string file = read_file(path, ExitCode::kData);
  EXPECT_NE(file.find("quiet on the console"), std::string::npos);
  EXPECT_NE(file.find("seen from every rank"), std::string::npos);
  init_log(0);
}

}  // namespace
}  // namespace cadre::base
