// Schedules at their end points, and what holds for all of them.
#include <gtest/gtest.h>

#include "optim/schedule.h"

namespace cadre::optim {
namespace {

std::unique_ptr<Schedule> make(const std::string& text) {
  return make_schedule(base::parse_run_text(text, "test.yaml", {}));
}

class EverySchedule : public ::testing::TestWithParam<std::string> {};

TEST_P(EverySchedule, WarmsUpLinearlyAndStaysWithinOne) {
  const auto schedule = make(fmt::format("{{name: {}, warmup: 10}}", GetParam()));
  for (int64_t step = 0; step < 10; ++step)
    EXPECT_DOUBLE_EQ(schedule->factor(step, 100), double(step + 1) / 10);
  EXPECT_DOUBLE_EQ(schedule->factor(10, 100), 1.0);
  for (int64_t step = 10; step < 100; ++step) {
    EXPECT_LE(schedule->factor(step, 100), 1.0);
    EXPECT_GE(schedule->factor(step, 100), 0.0);
    EXPECT_LE(schedule->factor(step, 100), schedule->factor(step - 1, 100))
        << "never rises after the warm-up";
  }
}
TEST_P(EverySchedule, NoWarmupStartsAtThePeak) {
  EXPECT_DOUBLE_EQ(make(fmt::format("{{name: {}}}", GetParam()))->factor(0, 100), 1.0);
}
TEST_P(EverySchedule, RunShorterThanItsWarmupOnlyWarmsUp) {
  const auto schedule = make(fmt::format("{{name: {}, warmup: 100}}", GetParam()));
  EXPECT_DOUBLE_EQ(schedule->factor(4, 5), 0.05);
}
TEST_P(EverySchedule, RejectsUnknownKeysAndNegativeWarmup) {
  EXPECT_THROW(make(fmt::format("{{name: {}, warm: 1}}", GetParam())), Error);
  EXPECT_THROW(make(fmt::format("{{name: {}, warmup: -1}}", GetParam())), Error);
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& entry : schedule_table()) all.push_back(entry.name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Table, EverySchedule, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(Cosine, IsHalfWayInTheMiddleAndEndsAtMin) {
  const auto schedule = make("{name: cosine, warmup: 20, min: 0.2}");
  EXPECT_NEAR(schedule->factor(60, 100), 0.6, 1e-12);
  EXPECT_NEAR(schedule->factor(100, 100), 0.2, 1e-12);
}
TEST(Linear, FallsByEqualSteps) {
  const auto schedule = make("{name: linear, min: 0.5}");
  EXPECT_NEAR(schedule->factor(50, 100), 0.75, 1e-12);
  EXPECT_NEAR(schedule->factor(99, 100), 0.505, 1e-12);
}
TEST(Wsd, HoldsThePeakAndDecaysInTheLastPart) {
  const auto schedule = make("{name: wsd, warmup: 10, decay: 0.2}");
  EXPECT_DOUBLE_EQ(schedule->factor(80, 100), 1.0);
  EXPECT_NEAR(schedule->factor(90, 100), 0.5, 1e-12);
  EXPECT_NEAR(schedule->factor(99, 100), 0.05, 1e-12);
}
TEST(Schedules, UnknownNameListsTheTable) {
  try {
    make("{name: cosin}");
    FAIL() << "an unknown schedule was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'cosine'"), std::string::npos) << error.what();
    EXPECT_EQ(error.code(), ExitCode::kUsage);
  }
}

}  // namespace
}  // namespace cadre::optim
