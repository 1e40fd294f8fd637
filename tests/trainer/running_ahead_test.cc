// Engines that start a pass before they know what the one before drew, against those that take a pass at a time.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/trainer/rollout_fixture.h"

namespace cadre::trainer {
namespace {

using testing::expect_same_tokens;
using testing::kEos;
using testing::requests;
using testing::run;
using testing::small_engine;
using testing::with_model;

// Engines that run ahead feed a sequence that stopped once more before they know: nothing of that may be seen, neither in
// it nor in what comes after it in its place and its pages.
TEST(RunningAhead, DoesNotChangeWhatIsSampled) {
  with_model(1, true, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    const auto both = [&](EngineConfig config, const std::string& what) {
      config.stops = [](std::span<const int32_t> response) {
        const auto ends = [](int32_t token) { return token < 0 || token == kEos || token == 7; };
        EXPECT_EQ(std::count_if(response.begin(), response.end() - 1, ends), 0) << "asked once too often";
        EXPECT_GE(response.back(), 0) << "asked about a token that is not there yet";
        return response.back() == 7;
      };
      config.run_ahead = false;
      Engine behind(*m.model, mesh.expert(), config);
      const auto expected = run(behind, requests(9, 3));
      config.run_ahead = true;
      Engine ahead(*m.model, mesh.expert(), config);
      expect_same_tokens(run(ahead, requests(9, 3)), expected, what);
      EXPECT_EQ(ahead.pool().free(), ahead.pool().size()) << what;
      EXPECT_FALSE(ahead.pause()) << what;
      // Those whose length ends them are not fed in vain.
      const auto stopped_early = [&](const Rollout& r) {
        return r.finish == Finish::kStop && r.response_length() < config.max_new_tokens;
      };
      const int64_t in_vain = std::count_if(expected.begin(), expected.end(), stopped_early);
      if (config.max_sequences >= 27) {
        EXPECT_EQ(ahead.rows_fed(), behind.rows_fed() + in_vain) << what;
      }
      return in_vain;
    };
    EngineConfig config = small_engine();
    config.max_sequences = 27;
    EXPECT_GT(both(config, "all at once"), 5) << "choose another seed";
    for (const int64_t most : {1, 2, 5}) {
      config.max_new_tokens = most;
      both(config, fmt::format("at most {} new tokens", most));
    }
    for (const int64_t page_size : {1, 5, 64}) {
      config = small_engine();
      config.page_size = page_size;
      config.max_sequences = 4;  // prompts wait for places
      both(config, fmt::format("pages of {}", page_size));
    }
    config = small_engine();
    config.max_sequences = 2;
    config.cache_tokens = 44;  // and for pages
    config.max_rows = 3;
    both(config, "narrow");
  });
}

TEST(RunningAhead, GivesTheSameBitsWhereLengthsAreKnown) {
  with_model(1, true, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    EngineConfig config = small_engine();
    config.max_sequences = 12;
    config.eos = -1;
    config.run_ahead = false;
    Engine behind(*m.model, mesh.expert(), config);
    const auto expected = run(behind, requests(4, 3));
    config.run_ahead = true;
    Engine ahead(*m.model, mesh.expert(), config);
    const auto got = run(ahead, requests(4, 3));
    EXPECT_EQ(pack(got), pack(expected));
    EXPECT_EQ(ahead.passes(), behind.passes());
    EXPECT_EQ(ahead.rows_fed(), behind.rows_fed());
  });
}

// The token of a pass belongs to the weights of that pass, also when the host takes it in under the next.
TEST(RunningAhead, TokensHaveTheVersionOfThePassThatDrewThem) {
  with_model(1, false, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    for (const bool ahead : {false, true}) {
      EngineConfig config = small_engine();
      config.eos = -1;
      config.max_new_tokens = 3;
      config.run_ahead = ahead;
      Engine engine(*m.model, mesh.expert(), config);
      engine.add(requests(1, 1).front());
      uint32_t version = 0;
      do {
        engine.set_version(++version);
      } while (engine.step());
      const auto rollouts = engine.take_finished();
      ASSERT_EQ(rollouts.size(), 1u);
      EXPECT_EQ(rollouts[0].version, (std::vector<uint32_t>{1, 2, 3}));
    }
  });
}

}  // namespace
}  // namespace cadre::trainer
