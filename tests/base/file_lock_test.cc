// Locks between processes: one holder, and none after it is killed.
#include "parallel/base/file_lock.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "parallel/base/errors.h"
#include "tests/temp_folder.h"

namespace cadre::base {
namespace {

TEST(FileLock, HasOneHolderAtATime) {
  const test::TempFolder folder;
  const auto file = folder.path() / "lock";
  auto first = FileLock::take(file);
  ASSERT_TRUE(first);
  EXPECT_FALSE(FileLock::take(file));
  std::optional<FileLock> moved = std::move(first);
  EXPECT_FALSE(FileLock::take(file)) << "it is still held, by another variable";
  bool let_go = false;
  std::thread waiting([&] {
    const FileLock lock = FileLock::wait_for(file);
    EXPECT_TRUE(let_go);
  });
  let_go = true;
  moved.reset();
  waiting.join();
  EXPECT_TRUE(FileLock::take(file));
}

TEST(FileLock, IsFreeWhenItsHolderIsKilled) {
  const test::TempFolder folder;
  const auto file = folder.path() / "lock";
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t holder = fork();
  if (holder == 0) {
    const auto lock = FileLock::take(file);
    (void)!write(ends[1], lock ? "y" : "n", 1);
    while (true) pause();
  }
  char taken = 0;
  ASSERT_EQ(read(ends[0], &taken, 1), 1);
  EXPECT_EQ(taken, 'y');
  EXPECT_FALSE(FileLock::take(file));
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
  EXPECT_TRUE(FileLock::take(file));
  close(ends[0]), close(ends[1]);
}

TEST(FileLock, OfAFileThatIsGoneIsNotTheNewOnes) {
  const test::TempFolder folder;
  const auto file = folder.path() / "lock";
  const auto old = FileLock::take(file);
  std::filesystem::remove(file);
  const auto now = FileLock::take(file);
  EXPECT_TRUE(now) << "the file is another one";
  EXPECT_FALSE(FileLock::take(file));
}

TEST(FileLock, SaysWhereItCannotBe) {
  const test::TempFolder folder;
  try {
    FileLock::take(folder.path() / "missing" / "lock");
    FAIL() << "there is no such folder";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("missing/lock: No such file"), std::string::npos) << e.what();
  }
  EXPECT_THROW(FileLock::take(folder.path() / std::string(300, 'x')), Error);
}

}  // namespace
}  // namespace cadre::base
