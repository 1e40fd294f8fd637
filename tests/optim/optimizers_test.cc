// What holds for every optimizer of the table.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/optim/optimizer_fixture.h"

namespace cadre::optim {
namespace {

using device::Group;
using testing::Bench;
using testing::section;

class EveryOptimizer : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Table, EveryOptimizer, ::testing::ValuesIn(testing::optimizer_names()),
                         [](const auto& info) { return info.param; });

TEST_P(EveryOptimizer, StateRestoredContinuesBitwise) {
  const std::string text = fmt::format("{{name: {}, lr: 0.01}}", GetParam());
  Bench<float> a, b;
  auto one = make_optimizer<float>(section(text), a.context(0));
  a.fill_grads(1);
  one->step(0.02, 1);
  auto two = make_optimizer<float>(section(text), b.context(0));
  for (int g = 0; g < device::kNumGroups; ++g) {
    std::copy(a.store.values(Group(g)).begin(), a.store.values(Group(g)).end(),
              b.store.values(Group(g)).begin());
    for (const std::string& name : one->state_names()) {
      const auto from = one->state(name, Group(g));
      std::copy(from.begin(), from.end(), two->state(name, Group(g)).begin());
    }
  }
  two->set_updates(one->updates());
  a.fill_grads(2);
  b.fill_grads(2);
  one->step(0.02, 1);
  two->step(0.02, 1);
  EXPECT_EQ(a.values(), b.values());
}

TEST_P(EveryOptimizer, MovesAgainstTheGradient) {
  Bench<float> bench;
  auto optimizer = make_optimizer<float>(
      section(fmt::format("{{name: {}, lr: 0.01, weight_decay: 0}}", GetParam())), bench.context(0));
  bench.fill_grads(5);
  const std::vector<float> before = bench.values();
  optimizer->step(0.01, 1);
  const std::vector<float> after = bench.values();
  double dot = 0;
  for (int64_t i = 0; i < bench.store.grads(Group::kDense).size(); ++i) {
    dot += double(after[size_t(i)] - before[size_t(i)]) * bench.store.grads(Group::kDense)[i];
  }
  EXPECT_LT(dot, 0);
}

TEST_P(EveryOptimizer, RejectsAnUnknownKey) {
  Bench<float> bench;
  EXPECT_THROW(make_optimizer<float>(section(fmt::format("{{name: {}, lr: 0.01, momentun: 1}}", GetParam())),
                                     bench.context(0)),
               Error);
}

TEST(Optimizers, APlannedOptimizerKnowsItsBytesAndHoldsNothing) {
  for (const char* text : {"{name: adamw, lr: 0.01}", "{name: muon, lr: 0.01}"}) {
    Bench<float> bench;
    auto context = bench.context(0);
    const size_t bytes = make_optimizer<float>(section(text), context)->bytes();
    context.planned = true;
    const auto planned = make_optimizer<float>(section(text), context);
    EXPECT_EQ(planned->bytes(), bytes);
    EXPECT_TRUE(planned->state("m", Group::kDense).empty());
  }
}

}  // namespace
}  // namespace cadre::optim
