// Every row of the mixers' table, and the closed forms of each.
#include "data/mixer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "data/curriculum.h"
#include "data/planner.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

std::unique_ptr<Mixer> make(const std::string& yaml, const MixerContext& context) {
  return make_mixer(base::parse_run_text("mixer: " + yaml, "test.yaml", {}).section("mixer"), context);
}

std::vector<double> weights_of(const std::string& yaml, std::vector<int64_t> sizes, int64_t total) {
  const MixerContext context{std::vector<std::string>(sizes.size(), "d"), sizes, total};
  return make(yaml, context)->weights({});
}

TEST(MixerTable, EveryRowGivesWeightsAndComesBackFromItsState) {
  const MixerContext context{{"a", "b", "c", "empty"}, {1000, 50, 200000, 0}, 30000};
  const testing::TempFile file("shares.yaml", "{a: 1, b: 2, c: 3, empty: 0}");
  for (const auto& row : mixer_table()) {
    const std::string name = row.name;
    const std::string path = name == "file"     ? ", path: " + file.path()
                             : name == "doremi" ? ", reference: elsewhere"
                                                : "";
    const auto mixer = make(fmt::format("{{name: {}{}}}", row.name, path), context);
    const auto twin = make(fmt::format("{{name: {}{}}}", row.name, path), context);
    for (uint64_t step = 0; step < 20; ++step) {
      const Progress progress{.step = step, .tokens = step * 1000, .total_steps = 20, .total_tokens = 30000};
      const std::vector<double> w = mixer->weights(progress);
      ASSERT_EQ(w.size(), 4u) << row.name;
      EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-12) << row.name;
      for (const double x : w) EXPECT_GE(x, 0) << row.name;
      EXPECT_EQ(w[3], 0) << row.name << " gives weight to a domain without text";
      twin->load(nlohmann::json::parse(mixer->save().dump()));
      EXPECT_EQ(twin->weights(progress), w) << row.name;
      DomainStats stats{.loss_sum = {1.0 + double(step), 2, 3, 0}, .tokens = {10, 10, 10, 0}, .grad_norm = 1};
      if (step % 3 == 2)
        stats.influence = {
            {{2, 3, 4, 0}, {9, 9, 9, 0}, {30, 30, 30, 0}, {3, 5, -1, 0}, {9, 9, 9, 0}, {1, 2, 3, 0}}};
      if (step % 4 == 1) stats.reward = {0.1 * double(step % 7), NAN, 1, NAN};
      if (step % 5 == 1) stats.valid_loss = {3, 4, 5 - 0.1 * double(step), 0};
      mixer->observe(progress, stats);
    }
  }
}

// What the planner enforces (planner_test.cc) is the mixer's own key, the same for all.
TEST(MixerTable, EveryRowTakesACapOnEpochs) {
  const MixerContext context{{"a", "b"}, {1000, 2000}, 1500};
  const testing::TempFile file("equal.yaml", "{a: 1, b: 1}");
  for (const auto& row : mixer_table()) {
    const std::string name = row.name;
    const std::string needed = name == "file"     ? ", path: " + file.path()
                               : name == "doremi" ? ", reference: here"
                                                  : "";
    const auto mixer = make(fmt::format("{{name: {}, max_epochs: 1.5{}}}", name, needed), context);
    EXPECT_EQ(mixer->max_epochs(), 1.5) << row.name;
  }
}

TEST(MixerTable, UnknownNamesAndKeysAreRefused) {
  const MixerContext context{{"a"}, {10}, 5};
  try {
    make("{name: unimix}", context);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("'unimax'"), std::string::npos) << e.what();
  }
  EXPECT_THROW(make("{name: natural, tau: 2}", context), Error);
  EXPECT_THROW(make("{name: temperature, tau: 0}", context), Error);
  EXPECT_THROW(make("{name: natural}", {{"a"}, {0}, 5}), Error);
}

TEST(Mixers, NaturalUniformAndTemperatureFollowTheirFormulas) {
  EXPECT_EQ(weights_of("natural", {100, 300}, 10), (std::vector<double>{0.25, 0.75}));
  EXPECT_EQ(weights_of("uniform", {100, 300}, 10), (std::vector<double>{0.5, 0.5}));
  const auto w = weights_of("{name: temperature, tau: 2}", {100, 400}, 10);  // square roots: 10 and 20
  EXPECT_NEAR(w[0], 1.0 / 3, 1e-15);
  EXPECT_NEAR(weights_of("{name: temperature, tau: 1}", {100, 300}, 10)[0], 0.25, 1e-15);
  EXPECT_NEAR(weights_of("{name: temperature, tau: 1e9}", {100, 300}, 10)[0], 0.5, 1e-6);
  EXPECT_TRUE(std::isfinite(weights_of("{name: temperature, tau: 0.001}", {100, 3000000000}, 10)[1]));
}

TEST(Mixers, UnimaxCapsSmallDomainsAndSharesTheRest) {
  // Budget 1000, two epochs: 10 -> 20, then 980 is shared by two: 100 -> 200, and 780 is left.
  const auto w = weights_of("{name: unimax, max_epochs: 2}", {100, 10, 5000}, 1000);
  EXPECT_NEAR(w[0], 0.2, 1e-15);
  EXPECT_NEAR(w[1], 0.02, 1e-15);
  EXPECT_NEAR(w[2], 0.78, 1e-15);
  const auto uniform = weights_of("{name: unimax, max_epochs: 2}", {1000, 1000, 5000}, 900);
  for (const double x : uniform) EXPECT_NEAR(x, 1.0 / 3, 1e-15);
  const auto full = weights_of("{name: unimax, max_epochs: 2}", {100, 300}, 800);  // the largest budget
  EXPECT_NEAR(full[0], 0.25, 1e-15);
  try {
    weights_of("{name: unimax, max_epochs: 2}", {100, 300}, 801);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUsage);
    EXPECT_NE(std::string(e.what()).find("at most 800"), std::string::npos) << e.what();
  }
}

TEST(Mixers, UnimaxsLargestBudgetCanBePlannedToTheLastBatch) {
  const auto corpus = testing::numbered_corpus({5, 21, 160}, 50);
  MixerContext context = mixer_context(*corpus, 1);
  const int64_t sequence = 32, batch = 4;
  const int64_t all =
      3 * std::accumulate(context.domain_tokens.begin(), context.domain_tokens.end(), int64_t{0});
  const int64_t steps = all / (sequence * batch);
  context.total_tokens = steps * sequence * batch;
  const auto mixer = make("{name: unimax, max_epochs: 3}", context);
  const Curriculum none;
  Planner planner({.seed = 4, .global_batch = batch, .seq_len = sequence, .max_epochs = mixer->max_epochs()},
                  *corpus, none);
  for (int64_t step = 0; step < steps; ++step) planner.next(mixer->weights({}));
}

// Window 1: the rate is the last mean reward itself. (The sizes differ, as GCC 12 at -O3 with AVX-512 makes four equal ones
// of {100, 100, 100, 0}.)
TEST(Mixers, LearnabilityGoesWhereRewardsVary) {
  const MixerContext context{{"easy", "frontier", "hard", "empty"}, {100, 200, 300, 0}, 1000};
  const auto mixer = make("{name: learnability, window: 1, floor: 0.3}", context);
  EXPECT_EQ(mixer->weights({})[1], 1.0 / 3);
  mixer->observe({},
                 {.loss_sum = {}, .tokens = {}, .reward = {1, 0.5, NAN, NAN}});  // hard: no sample yet, 1/2
  EXPECT_NEAR(mixer->weights({})[0], 0.1, 1e-12);
  EXPECT_NEAR(mixer->weights({})[1], 0.1 + 0.35, 1e-12);
  mixer->observe({}, {.loss_sum = {}, .tokens = {}, .reward = {0.9, 0.6, 0, NAN}});
  const double sum = 0.9 * 0.1 + 0.6 * 0.4;
  EXPECT_NEAR(mixer->weights({})[0], 0.1 + 0.7 * 0.09 / sum, 1e-12);
  EXPECT_NEAR(mixer->weights({})[2], 0.1, 1e-12);
  EXPECT_EQ(mixer->weights({})[3], 0);
  mixer->observe({}, {.loss_sum = {}, .tokens = {}});  // a run that does not sample
  EXPECT_NEAR(mixer->weights({})[2], 0.1, 1e-12);
}

TEST(CurriculumTable, EveryRowsQuotaSumsToOne) {
  for (const auto& row : curriculum_table()) {
    const auto c = make_curriculum(
        base::parse_run_text(fmt::format("curriculum: {{name: {}}}", row.name), "test.yaml", {})
            .section("curriculum"),
        nullptr);
    for (const double u : {0.0, 0.3, 1.0}) {
      const auto q = c->quota(u, 0);
      ASSERT_EQ(int(q.size()), c->num_buckets()) << row.name;
      EXPECT_NEAR(std::accumulate(q.begin(), q.end(), 0.0), 1, 1e-12) << row.name;
    }
    const auto state = c->save();
    c->load(state);
  }
}

}  // namespace
}  // namespace cadre::data
