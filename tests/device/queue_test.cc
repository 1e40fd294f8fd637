#include "parallel/device/queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "parallel/device/recording.h"

namespace cadre::device {
namespace {

using Range = std::pair<int64_t, int64_t>;

std::vector<Range> ranges(CpuQueue& queue, int64_t n, int64_t grain) {
  std::vector<Range> found(queue.num_threads(), Range(-1, -1));
  std::atomic<int> count = 0;
  queue.parallel_for(n, grain, [&](int64_t begin, int64_t end) { found[count++] = {begin, end}; });
  found.resize(count);
  std::sort(found.begin(), found.end());
  return found;
}

TEST(CpuQueue, RangesCoverEverythingOnceAndRespectTheGrain) {
  for (int threads : {1, 2, 3, 8}) {
    CpuQueue queue(threads);
    EXPECT_EQ(queue.num_threads(), threads);
    for (int64_t n : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {0, 1, 5, 100, 2000}) {
        const std::vector<Range> found = ranges(queue, n, grain);
        ASSERT_LE(int(found.size()), threads);
        int64_t at = 0;
        for (const Range& range : found) {
          ASSERT_EQ(range.first, at);
          ASSERT_TRUE(found.size() == 1 || range.second - range.first >= grain);
          at = range.second;
        }
        ASSERT_EQ(at, n) << "threads " << threads << " grain " << grain;
        ASSERT_EQ(found, ranges(queue, n, grain));
      }
    }
  }
}

TEST(CpuQueue, TasksRunOnceEach) {
  for (int threads : {1, 2, 5}) {
    CpuQueue queue(threads);
    for (int64_t n : {0, 1, 3, 1000}) {
      std::vector<int> runs(n, 0);
      queue.parallel_tasks(n, [&](int64_t task) { ++runs[task]; });
      EXPECT_EQ(runs, std::vector<int>(n, 1));
    }
  }
}

// Plain (not atomic) data handed from call to call: the thread sanitizer sees a missing happens-before edge.
TEST(CpuQueue, EachCallSeesTheWritesOfTheOneBefore) {
  CpuQueue queue(4);
  std::vector<int64_t> a(256, 0), b(256, 0);
  for (int round = 0; round < 3000; ++round) {
    queue.parallel_for(256, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) b[i] = a[255 - i] + 1;
    });
    queue.parallel_tasks(256, [&](int64_t i) { a[i] = b[255 - i]; });
  }
  EXPECT_EQ(a, std::vector<int64_t>(256, 3000));
}

TEST(CpuQueue, SleepingWorkersWakeAgain) {
  CpuQueue queue(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int64_t> sum = 0;
    queue.parallel_for(300, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    ASSERT_EQ(sum, 300);
  }
}

// A task that waits for another one: both must run at the same time, on two threads, asleep or not.
TEST(CpuQueue, TasksRunAtTheSameTime) {
  CpuQueue queue(2);
  for (int round = 0; round < 20; ++round) {
    if (round % 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> arrived = 0;
    queue.parallel_tasks(2, [&](int64_t) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
  }
}

TEST(CpuQueue, TheExceptionOfTheLowestTaskIsRethrownAndTheQueueGoesOn) {
  for (int threads : {1, 2, 4}) {
    CpuQueue queue(threads);
    for (int round = 0; round < 50; ++round) {
      try {
        queue.parallel_tasks(100, [](int64_t task) {
          if (task >= 37) throw std::runtime_error(std::to_string(task));
        });
        FAIL() << "nothing was thrown";
      } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "37");
      }
      std::atomic<int64_t> sum = 0;
      queue.parallel_tasks(100, [&](int64_t task) { sum += task; });
      ASSERT_EQ(sum, 4950);
    }
  }
}

// What 4 ranks with 2 threads each do on a small machine.
TEST(CpuQueue, ManyQueuesShareTheCores) {
  std::vector<std::thread> ranks;
  for (int r = 0; r < 4; ++r) {
    ranks.emplace_back([] {
      CpuQueue queue(2);
      std::vector<int64_t> counts(1000, 0);
      for (int round = 0; round < 500; ++round) {
        queue.parallel_for(1000, 10, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++counts[i];
        });
      }
      EXPECT_EQ(counts, std::vector<int64_t>(1000, 500));
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

// With what lies in memory by then, as an accelerator would that has recorded it.
TEST(CpuQueue, ARecordingDoesItsWorkEachTime) {
  CpuQueue queue(2);
  const auto recording = make_recording(queue);
  int64_t x = 0, sum = 0;
  for (x = 1; x <= 5; ++x) recording->run([&] { sum += x; });
  EXPECT_EQ(sum, 15);
}

}  // namespace
}  // namespace cadre::device
