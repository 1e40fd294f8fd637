// The watchdog on a device that is a few variables.
#include "parallel/comm/watchdog.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <atomic>

#include <algorithm>
#include <filesystem>
#include <future>

namespace cadre::comm {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct Report {
  std::string message, flights;
};

// A device on which collectives end when the test says so.
struct FakeDevice {
  std::atomic<int> ended = 0;  // collectives up to this one are done
  std::atomic<bool> faulty = false;
  std::promise<Report> report;
  int started = 0;

  Watchdog::Hooks hooks() {
    return {.who = "communicator 'data', rank 1 of 2",
            .start = {},
            .fault = [this]() -> std::string { return faulty ? "link down" : ""; },
            .failed =
                [this](const std::string& message, const std::string& flights) {
                  report.set_value({message, flights});
                }};
  }
  uint64_t start(Watchdog& dog, const char* verb, const std::string& label, milliseconds timeout) {
    return dog.started(verb, label, 1024, timeout, [this, number = ++started] { return ended >= number; });
  }
};

// Far more than any test needs; only a failure takes so long.
Report wait_for(FakeDevice& device) {
  auto future = device.report.get_future();
  if (future.wait_for(seconds(20)) != std::future_status::ready) {
    ADD_FAILURE() << "nothing was reported";
    return {};
  }
  return future.get();
}
void wait_until_done(const Watchdog& dog, const std::string& text) {
  for (int i = 0; i < 20000 && dog.flights().find(text) == std::string::npos; ++i)
    std::this_thread::sleep_for(milliseconds(1));
}

TEST(Watchdog, NamesTheCollectiveThatDoesNotEnd) {
  FakeDevice device;
  Watchdog dog(device.hooks(), milliseconds(1));
  device.start(dog, "all_gather", "parameters", seconds(100));
  device.start(dog, "reduce_scatter", "gradients", milliseconds(5));
  device.start(dog, "all_to_all", "moe.combine.rows", milliseconds(5));
  device.ended = 1;
  const Report report = wait_for(device);
  EXPECT_EQ(
      report.message,
      "reduce_scatter 'gradients' on communicator 'data', rank 1 of 2: not done within 5 ms; a rank hangs or "
      "was lost");
  EXPECT_EQ(dog.failure(), report.message);
  EXPECT_NE(
      report.flights.find("#1 all_gather 'parameters' on communicator 'data', rank 1 of 2: 1024 bytes, done"),
      std::string::npos)
      << report.flights;
  EXPECT_NE(report.flights.find("'gradients' on communicator 'data', rank 1 of 2: 1024 bytes, failed"),
            std::string::npos)
      << report.flights;
  EXPECT_NE(
      report.flights.find("'moe.combine.rows' on communicator 'data', rank 1 of 2: 1024 bytes, under way"),
      std::string::npos)
      << report.flights;
}

// A long step gives many collectives at once; each has its time from the end of the one before.
TEST(Watchdog, CountsTimeFromTheEndOfTheCollectiveBefore) {
  FakeDevice device;
  Watchdog dog(device.hooks(), milliseconds(1));
  device.start(dog, "all_gather", "first", seconds(100));
  device.start(dog, "all_gather", "second", milliseconds(2000));
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(dog.failure(), "");
  device.ended = 2;
  wait_until_done(dog, "'second' on communicator 'data', rank 1 of 2: 1024 bytes, done");
  EXPECT_EQ(dog.failure(), "");
}

TEST(Watchdog, ReportsWhatTheTransportFound) {
  FakeDevice device;
  Watchdog dog(device.hooks(), milliseconds(1));
  device.start(dog, "all_gather", "parameters", seconds(100));
  device.faulty = true;
  EXPECT_EQ(wait_for(device).message, "communicator 'data', rank 1 of 2: link down");
}

TEST(Watchdog, ReportsAnErrorOfTheDevice) {
  FakeDevice device;
  Watchdog dog(device.hooks(), milliseconds(1));
  dog.started("all_gather", "parameters", 8, seconds(100),
              []() -> bool { throw std::runtime_error("CUDA: lost"); });
  EXPECT_EQ(wait_for(device).message, "communicator 'data', rank 1 of 2: CUDA: lost");
}

TEST(Watchdog, KeepsTheLast64) {
  FakeDevice device;
  Watchdog dog(device.hooks(), milliseconds(1));
  for (int i = 1; i <= 200; ++i) device.start(dog, "all_gather", "call " + std::to_string(i), seconds(100));
  device.ended = 199;
  wait_until_done(dog, "'call 199' on communicator 'data', rank 1 of 2: 1024 bytes, done");
  const std::string text = dog.flights();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 64);
  EXPECT_EQ(text.find("'call 136'"), std::string::npos);
  EXPECT_EQ(text.rfind("#137 all_gather 'call 137'", 0), 0u) << text.substr(0, 80);
  EXPECT_NE(
      text.find("#200 all_gather 'call 200' on communicator 'data', rank 1 of 2: 1024 bytes, under way"),
      std::string::npos);
}

// The rank's box, which others read when it is gone, shows the end of a collective that its own thread never saw.
TEST(Watchdog, MarksTheBox) {
  const auto file =
      std::filesystem::temp_directory_path() / ("cadre-watchdog-" + std::to_string(::getpid()) + ".box");
  {
    base::Blackbox box(file, 1, 2);
    FakeDevice device;
    Watchdog dog(device.hooks(), milliseconds(1));
    device.start(dog, "all_gather", "parameters", seconds(100));
    device.start(dog, "reduce_scatter", "gradients", seconds(100));
    device.ended = 1;
    wait_until_done(dog, "'parameters' on communicator 'data', rank 1 of 2: 1024 bytes, done");
    const auto contents = base::read_box(file);
    ASSERT_TRUE(contents.has_value());
    ASSERT_EQ(contents->collectives.size(), 2u);
    EXPECT_TRUE(contents->collectives[0].done);
    EXPECT_FALSE(contents->collectives[1].done);
  }
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace cadre::comm
