// Generation in pages: log-probabilities are the trainer's, and neither batching, pages, interruptions nor ranks change
// what is sampled.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/trainer/rollout_fixture.h"
#include "tests/trainer/trained_row.h"
#include "trainer/model/pass_memory.h"
#include "trainer/model/recorded_passes.h"

namespace cadre::trainer {
namespace {

using testing::expect_same_tokens;
using testing::kEos;
using testing::requests;
using testing::run;
using testing::small_engine;
using testing::sorted;
using testing::trained_row;
using testing::with_model;

// With as many heads of keys as of queries, the three projections are one batch of products.
TEST(Rollouts, LogProbabilitiesAreThoseOfTheTrainersForward) {
  const auto body = [&](TestModel<float>& m, comm::Mesh& mesh) {
    Engine engine(*m.model, mesh.expert(), small_engine());
    const auto rollouts = run(engine, requests(6, 4));
    ASSERT_EQ(rollouts.size(), 24u);
    for (const Rollout& r : rollouts) {
      const auto logp = m.model->forward(trained_row(r), false);
      for (int64_t t = 0; t < r.response_length(); ++t)
        ASSERT_NEAR(r.logp[size_t(t)], logp[r.prompt_length - 1 + t], 2e-5);
    }
  };
  for (const bool experts : {false, true}) {
    for (const QkNorm qk_norm : {QkNorm::kNone, QkNorm::kHead, QkNorm::kFull}) {
      for (const int64_t kv_heads : {2, 4}) with_model(1, experts, qk_norm, body, kv_heads);
    }
  }
}

TEST(Rollouts, BatchingAndPagesDoNotChangeWhatIsSampled) {
  with_model(1, true, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    Engine reference(*m.model, mesh.expert(), small_engine());
    const auto expected = run(reference, requests(7, 3));
    for (const int64_t page_size : {1, 5, 64}) {
      EngineConfig config = small_engine();
      config.page_size = page_size;
      config.max_sequences = 3;
      Engine engine(*m.model, mesh.expert(), config);
      auto backwards = requests(7, 3);
      std::reverse(backwards.begin(), backwards.end());
      expect_same_tokens(run(engine, backwards), expected, fmt::format("pages of {}", page_size));
      EXPECT_EQ(engine.pool().free(), engine.pool().size());
    }
    // Groups that are wider than the engine, a cache that holds few, and passes with few rows.
    EngineConfig narrow = small_engine();
    narrow.max_sequences = 2;
    narrow.cache_tokens = 44;
    narrow.max_rows = 3;
    Engine engine(*m.model, mesh.expert(), narrow);
    expect_same_tokens(run(engine, requests(7, 3)), expected, "narrow");
  });
}

// Of equal sizes, until an address changes; and none when a router has something to send.
TEST(Rollouts, APassIsRecordedForItsSizeItsShapeAndItsPlaces) {
  device::CpuQueue queue(1);
  RecordedPasses passes;
  const PassSize size{8, 8, 2}, wider{16, 8, 2};
  int inputs = 0, rope = 0;
  const RecordedPasses::Fixed fixed{&inputs, &rope, 1};
  EXPECT_EQ(passes.find(queue, fixed, size, {}), nullptr) << "routers send what they know";
  device::Recording* const first = passes.find(queue, fixed, size, {});
  ASSERT_NE(first, nullptr);
  device::Recording* const other = passes.find(queue, fixed, wider, {});
  EXPECT_NE(other, first);
  EXPECT_NE(passes.find(queue, fixed, size, {.temperature = 0.5}), first);
  EXPECT_NE(passes.find(queue, fixed, size, {.top_k = 3}), first);
  EXPECT_NE(passes.find(queue, fixed, size, {.top_p = 0.5}), first);
  EXPECT_EQ(passes.find(queue, fixed, size, {}), first);
  EXPECT_EQ(passes.find(queue, {&inputs, &rope, 2}, size, {}), nullptr) << "after an update";
  EXPECT_EQ(passes.find(queue, {&inputs, &rope, 2}, size, {}), first);
  // All of them are forgotten.
  std::set<device::Recording*> kinds;
  for (const void* moved : {static_cast<void*>(&rope), static_cast<void*>(&inputs)}) {
    passes.find(queue, {moved, &rope, 2}, size, {});
    for (int64_t rows = 8; rows <= 8 * 200; rows += 8)
      kinds.insert(passes.find(queue, {moved, &rope, 2}, {rows, 8, 2}, {}));
    EXPECT_EQ(kinds.count(nullptr), 1u) << "no more than a certain number are kept";
    kinds.clear();
  }
}

// Where the parts lie depends on the size alone; what is padding reads no page and goes to none.
TEST(Rollouts, InputsOfPassesOfOneSizeLieInTheSamePlaces) {
  device::CpuQueue queue(1);
  PassMemory<float> memory(device::DeviceKind::kCpu, 3);
  const DecodeBatch batch{.token = {5, 6, 7},
                          .position = {0, 3, 4},
                          .owner = {0, 1, 1},
                          .follows = {},
                          .page_table = {9, 0, 4, 2},
                          .pages_per_row = 2,
                          .drawn = {0, 2},
                          .uniform = {0.25, 0.5}};
  const auto values = [](const auto& view) { return std::vector(view.begin(), view.end()); };
  using Ints = std::vector<int32_t>;
  memory.load(queue, batch, {4, 3, 2}, 4);
  EXPECT_EQ(values(memory.token), (Ints{5, 6, 7, 0}));
  EXPECT_EQ(values(memory.position), (Ints{0, 3, 4, 0}));
  EXPECT_EQ(values(memory.owner), (Ints{0, 1, 1, -1}));
  EXPECT_EQ(values(memory.segment), (Ints{0, 0, 0, -1}));
  EXPECT_EQ(values(memory.length), (Ints{1, 4, 5, 0}));
  EXPECT_EQ(values(memory.place), (Ints{36, 19, 8, -1}));
  EXPECT_EQ(values(memory.follows), (Ints{-1, -1, -1, -1}));
  EXPECT_EQ(values(memory.drawn), (Ints{0, 2, 0}));
  EXPECT_EQ(values(memory.uniform), (std::vector<double>{0.25, 0.5, 0}));
  const auto* const token = memory.token.data();
  const auto* const table = memory.page_table.data();
  const DecodeBatch fewer{.token = {1},
                          .position = {1},
                          .owner = {0},
                          .follows = {2},
                          .page_table = {3, 0},
                          .pages_per_row = 2,
                          .drawn = {},
                          .uniform = {}};
  memory.load(queue, fewer, {4, 3, 2}, 4);
  EXPECT_EQ(memory.token.data(), token);
  EXPECT_EQ(memory.page_table.data(), table);
  EXPECT_EQ(values(memory.place), (Ints{13, -1, -1, -1}));
  EXPECT_EQ(values(memory.follows), (Ints{2, -1, -1, -1}));
}

// Also when it has fewer draws, and inputs for which new memory is taken.
TEST(Rollouts, ThePassAfterFindsWhatWasDrawnBeforeTheHostDoes) {
  device::CpuQueue queue(1);
  PassMemory<float> memory(device::DeviceKind::kCpu, 40);
  using Ints = std::vector<int32_t>;
  const auto load = [&](int64_t rows, int64_t draws) {
    DecodeBatch batch;
    batch.pages_per_row = 1;
    batch.page_table = {0};
    batch.token.assign(size_t(rows), 1);
    batch.position = batch.owner = Ints(size_t(rows), 0);
    batch.drawn = Ints(size_t(draws), 0);
    batch.uniform.assign(size_t(draws), 0.5);
    memory.load(queue, batch, {rows, draws, 1}, 4);
  };
  load(8, 40);
  for (int i = 0; i < 40; ++i) memory.drawn_token[i] = 100 + i, memory.logp[i] = float(-i);
  memory.fetch(queue, 39);
  const void* const before = memory.address();
  load(4000, 2);
  EXPECT_NE(memory.address(), before);
  EXPECT_EQ(memory.last_drawn()[39], 139);
  for (int i = 0; i < 2; ++i) memory.drawn_token[i] = 7 + i, memory.logp[i] = -0.5f;
  memory.fetch(queue, 2);
  const Decoded<float> first = memory.finish(), second = memory.finish();
  ASSERT_EQ(first.token.size(), 39u);
  EXPECT_EQ(first.token[38], 138);
  EXPECT_EQ(first.logp[38], -38);
  EXPECT_EQ(second.token, (Ints{7, 8}));
  EXPECT_EQ(second.logp, (std::vector<float>{-0.5f, -0.5f}));
}

TEST(Rollouts, PromptsOfAGroupAreFedOnce) {
  with_model(1, false, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    Engine engine(*m.model, mesh.expert(), small_engine());
    auto groups = requests(2, 6);
    const int64_t prompts = groups[0][0].prompt_length + groups[1][0].prompt_length;
    const auto rollouts = run(engine, std::move(groups));
    int64_t expected = prompts;
    for (const Rollout& r : rollouts) expected += r.response_length() - 1;
    EXPECT_EQ(engine.rows_fed(), expected);
  });
}

TEST(Rollouts, FullPagesOfAPromptAreSharedAndThePartialOneIsCopied) {
  with_model(1, false, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    Engine engine(*m.model, mesh.expert(), small_engine());
    Rollout r;
    r.prompt_length = 10;  // two full pages of 4, and two tokens
    r.tokens.assign(10, 5);
    std::vector<Rollout> group;
    for (r.sample = 0; r.sample < 5; ++r.sample) group.push_back(r);
    engine.add(std::move(group));
    engine.step();
    ASSERT_EQ(engine.unfinished(), 5) << "choose another seed: a sample ended at once";
    EXPECT_EQ(engine.pool().size() - engine.pool().free(), 2 + 5);
    EXPECT_EQ(engine.pool().users(0), 5);
  });
}

TEST(Rollouts, StopAtEosAtAStopOrAtTheLimit) {
  with_model(1, false, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    EngineConfig config = small_engine();
    config.stops = [](std::span<const int32_t> response) { return response.back() == 7; };
    Engine engine(*m.model, mesh.expert(), config);
    std::map<Finish, int> seen;
    for (const Rollout& r : run(engine, requests(12, 4))) {
      ++seen[r.finish];
      const int32_t last = r.tokens.back();
      EXPECT_EQ(r.finish == Finish::kStop, last == kEos || last == 7);
      if (r.finish == Finish::kLength) {
        EXPECT_EQ(r.response_length(), 18);
      }
      for (int64_t t = r.prompt_length; t + 1 < int64_t(r.tokens.size()); ++t)
        EXPECT_TRUE(r.tokens[size_t(t)] != kEos && r.tokens[size_t(t)] != 7);
    }
    EXPECT_GT(seen[Finish::kStop], 5);
    EXPECT_GT(seen[Finish::kLength], 5);
    Rollout full;
    full.prompt_length = 40;
    full.tokens.assign(40, 3);
    EXPECT_THROW(engine.add({full}), Error);
  });
}

void expect_interruptions_leave_no_trace(bool ahead) {
  with_model(1, true, QkNorm::kNone, [&](TestModel<float>& m, comm::Mesh& mesh) {
    EngineConfig config = small_engine();
    config.routing = !ahead;
    config.run_ahead = ahead;
    Engine straight(*m.model, mesh.expert(), config);
    const auto expected = run(straight, requests(6, 3));
    Engine engine(*m.model, mesh.expert(), config);
    for (auto& group : requests(6, 3)) engine.add(std::move(group));
    std::vector<Rollout> done;
    uint32_t version = 0;
    do {
      for (Rollout& r : engine.interrupt()) engine.add({std::move(r)});
      EXPECT_EQ(engine.pool().free(), engine.pool().size());
      engine.set_version(++version);
      for (int i = 0; i < 5 && engine.step(); ++i) {
      }
      for (Rollout& r : engine.take_finished()) done.push_back(std::move(r));
    } while (engine.unfinished() > 0);
    done = sorted(std::move(done));
    expect_same_tokens(done, expected, "interrupted");
    std::map<size_t, int> versions;
    for (size_t i = 0; i < done.size(); ++i) {
      EXPECT_EQ(done[i].routing, expected[i].routing);
      EXPECT_TRUE(std::is_sorted(done[i].version.begin(), done[i].version.end()));
      ++versions[size_t(done[i].version.back() - done[i].version.front())];
    }
    EXPECT_GT(versions.size(), 2u) << "some must span several versions";
  });
}

TEST(Rollouts, GoOnAfterAnInterruptionAsIfThereHadBeenNone) {
  for (const bool ahead : {false, true}) {
    SCOPED_TRACE(ahead ? "running ahead" : "a pass at a time");
    expect_interruptions_leave_no_trace(ahead);
  }
}

// Rank 1 has nothing to sample, and then less than rank 0.
TEST(Rollouts, RanksThatHoldExpertsTakePartWithoutWork) {
  std::vector<Rollout> expected;
  with_model(1, true, QkNorm::kNone, [&](TestModel<float>& m, comm::Mesh& mesh) {
    Engine engine(*m.model, mesh.expert(), small_engine());
    expected = run(engine, requests(6, 2));
  });
  for (const size_t own : {6u, 4u}) {
    std::vector<Rollout> got[2];
    with_model(2, true, QkNorm::kNone, [&](TestModel<float>& m, comm::Mesh& mesh) {
      Engine engine(*m.model, mesh.expert(), small_engine());
      auto all = requests(6, 2);
      const bool first = mesh.expert().rank() == 0;
      const auto cut = all.begin() + long(own);
      got[mesh.expert().rank()] =
          run(engine, first ? std::vector(all.begin(), cut) : std::vector(cut, all.end()));
    });
    got[0].insert(got[0].end(), got[1].begin(), got[1].end());
    expect_same_tokens(sorted(got[0]), expected, "two ranks");
  }
}

TEST(Rollouts, RecordedRoutingIsTheForwardsAndCanBeReplayed) {
  with_model(1, true, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    EngineConfig config = small_engine();
    config.routing = true;
    Engine engine(*m.model, mesh.expert(), config);
    const auto rollouts = run(engine, requests(3, 3));
    int different = 0;
    for (const Rollout& r : rollouts) {
      Batch row = trained_row(r);
      const auto plain = m.model->forward(row, false);
      const std::vector<float> expected(plain.begin(), plain.end());
      ASSERT_EQ(m.model->last_routing(), r.routing);
      row.routing = r.routing;
      const auto same = m.model->forward(row, false);
      EXPECT_EQ(std::vector<float>(same.begin(), same.end()), expected);
      for (uint8_t& expert : row.routing) expert = uint8_t(3 - expert);
      // Slots are in order of experts within a token's choice.
      for (size_t i = 0; i + 1 < row.routing.size(); i += 2) std::swap(row.routing[i], row.routing[i + 1]);
      const auto other = m.model->forward(row, false);
      different += std::vector<float>(other.begin(), other.end()) != expected;
      const auto again = m.model->forward(trained_row(r), false);
      EXPECT_EQ(std::vector<float>(again.begin(), again.end()), expected) << "a replay is for one forward";
    }
    EXPECT_EQ(different, int(rollouts.size()));
    Batch wrong = trained_row(rollouts[0]);
    wrong.routing.assign(3, 0);
    EXPECT_THROW(m.model->forward(wrong, false), Error);
  });
}

TEST(Rollouts, SurvivePackingAndDamageIsNoticed) {
  with_model(1, true, QkNorm::kNone, [](TestModel<float>& m, comm::Mesh& mesh) {
    EngineConfig config = small_engine();
    config.routing = true;
    Engine engine(*m.model, mesh.expert(), config);
    const auto rollouts = run(engine, requests(2, 2));
    const std::string bytes = pack(rollouts);
    EXPECT_EQ(pack(unpack(bytes)), bytes);
    EXPECT_EQ(unpack(bytes)[3].tokens, rollouts[3].tokens);
    EXPECT_THROW(unpack(bytes.substr(0, bytes.size() - 3)), Error);
    EXPECT_THROW(unpack(bytes.substr(1)), Error);
  });
}

}  // namespace
}  // namespace cadre::trainer
