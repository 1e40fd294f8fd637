// Selectors, against brute force, closed forms and the distribution that they promise.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "data/curriculum.h"
#include "data/planner.h"
#include "data/selector.h"
#include "data/selectors/online.h"
#include "data/selectors/take.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

std::unique_ptr<Selector> make(const std::string& yaml) {
  return make_selector(base::parse_run_text("selector: " + yaml, "test.yaml", {}).section("selector"));
}

// Documents of equal length, in two domains by turns, with the given columns.
std::unique_ptr<Corpus> scored(std::vector<std::vector<double>> columns, SetKind kind = SetKind::kText,
                               int length = 11) {
  std::vector<MemoryDocument> documents;
  Scores scores;
  for (size_t c = 0; c < columns.size(); ++c) scores.columns.push_back("t" + std::to_string(c));
  scores.values = columns;
  Scores loss{{"nats", "tokens"}, {columns[0], std::vector<double>(columns[0].size(), 1.0)}};
  for (size_t d = 0; d < columns[0].size(); ++d) {
    const int domain = int((kind == SetKind::kPreference ? d / 2 : d) % 2);
    documents.push_back({domain, std::vector<int32_t>(size_t(length), int32_t(d)), 1});
  }
  return make_memory_corpus({"a", "b"}, std::move(documents), kind,
                            {{"less", scores}, {"loss", loss}, {"score", scores}});
}

std::vector<double> noise(size_t n, uint64_t seed) {
  const base::Philox random(seed);
  std::vector<double> x;
  for (size_t i = 0; i < n; ++i) x.push_back(random.normal(i));
  return x;
}

TEST(Bands, TakeThePartOfEachDomainThatTheyName) {
  std::vector<double> loss;
  for (int d = 0; d < 40; ++d) loss.push_back(d % 2 == 0 ? 100 - d : d);  // domain a: 100 to 62, b: 1 to 39
  const auto corpus = scored({loss});
  const auto low = *make("{name: bands, band: low, keep: 0.25}")->choose(*corpus, 1);
  const auto high = *make("{name: bands, band: high, keep: 0.25}")->choose(*corpus, 1);
  const auto middle = *make("{name: bands, band: middle, keep: 0.5}")->choose(*corpus, 1);
  EXPECT_EQ(low, (std::vector<int64_t>{1, 3, 5, 7, 9, 30, 32, 34, 36, 38}));
  EXPECT_EQ(high, (std::vector<int64_t>{0, 2, 4, 6, 8, 31, 33, 35, 37, 39}));
  std::vector<int64_t> expected;
  for (int64_t d = 10; d < 30; ++d) expected.push_back(d);
  EXPECT_EQ(middle, expected);
}

TEST(Gumbel, WithoutNoiseIsTopKAndWithNoiseTheSoftmaxOfTheScore) {
  const auto corpus = scored({{3, 0, 1, 5, 2, 4, 0, 9}});
  EXPECT_EQ(*make("{name: gumbel, column: t0, keep: 0.25, temperature: 0, within: all}")->choose(*corpus, 1),
            (std::vector<int64_t>{3, 7}));
  EXPECT_EQ(*make("{name: gumbel, column: t0, keep: 0.5, temperature: 0}")->choose(*corpus, 1),
            (std::vector<int64_t>{0, 3, 4, 7}));
  EXPECT_EQ(*make("{name: gumbel, column: t0, keep: 0.25, temperature: 0, lowest: true}")->choose(*corpus, 1),
            (std::vector<int64_t>{1, 6}));
  // One of four is drawn: its probability is softmax(z / T).
  const std::vector<double> z = {-1.2, 0.1, 0.3, 0.8};
  double mean = 0, squares = 0;
  for (const double x : z) mean += x / 4;
  for (const double x : z) squares += (x - mean) * (x - mean) / 4;
  const auto four = scored({z});
  const auto selector = make("{name: gumbel, column: t0, keep: 0.25, temperature: 0.7, within: all}");
  std::vector<double> count(4, 0.0), p;
  const int draws = 20000;
  for (int seed = 0; seed < draws; ++seed) {
    const auto chosen = *selector->choose(*four, uint64_t(seed));
    ASSERT_EQ(chosen.size(), 1u);
    count[size_t(chosen[0])] += 1;
  }
  double sum = 0;
  for (const double x : z) p.push_back(std::exp((x - mean) / std::sqrt(squares) / 0.7)), sum += p.back();
  for (size_t i = 0; i < 4; ++i) {
    const double share = p[i] / sum;
    EXPECT_NEAR(count[i] / draws, share, 4 * std::sqrt(share * (1 - share) / draws)) << i;
  }
}

TEST(Less, KeepsTheBestOfAnyTargetOverWeightedCheckpoints) {
  const std::vector<double> a = {0.9, 0.1, 0.2, 0.3, 0.0, 0.1}, b = {0.0, 0.2, 0.8, 0.1, 0.1, 0.7};
  EXPECT_EQ(*make("{name: less, keep: 0.5}")->choose(*scored({a, b}), 1), (std::vector<int64_t>{0, 2, 5}));
  std::vector<MemoryDocument> documents;
  for (int d = 0; d < 3; ++d) documents.push_back({0, {1, 2, 3}, 1});
  const Scores first{{"t"}, {{1, 0, 0}}}, second{{"t"}, {{0, 0.4, 0}}}, other{{"u"}, {{0, 0, 0}}};
  const auto corpus = make_memory_corpus({"a"}, documents, SetKind::kText,
                                         {{"one", first}, {"two", second}, {"other", other}});
  EXPECT_EQ(*make("{name: less, scores: [one, two], rates: [1, 3], keep: 0.3}")->choose(*corpus, 1),
            (std::vector<int64_t>{1}));  // 0.25 against 0.3
  EXPECT_EQ(*make("{name: less, scores: [one, two], rates: [2, 3], keep: 0.3}")->choose(*corpus, 1),
            (std::vector<int64_t>{0}));  // 0.4 against 0.24
  EXPECT_THROW(make("{name: less, scores: [one, other]}")->choose(*corpus, 1), Error);
  EXPECT_THROW(make("{name: less, scores: [one], rates: [1, 2]}")->choose(*corpus, 1), Error);
  EXPECT_THROW(make("{name: less, scores: [missing]}")->choose(*corpus, 1), Error);
}

TEST(Bids, IsTheGreedyRuleByBruteForce) {
  const size_t count = 60, targets = 3;
  std::vector<std::vector<double>> a;
  for (uint64_t j = 0; j < targets; ++j) a.push_back(noise(count, 50 + j));
  for (double& x : a[2]) x = 5 + 0.01 * x;  // a scale of its own, which standardising takes away
  const auto chosen = *make("{name: bids, keep: 0.4}")->choose(*scored(a), 1);
  for (auto& column : a) {
    double mean = 0, squares = 0;
    for (const double x : column) mean += x / double(count);
    for (const double x : column) squares += (x - mean) * (x - mean) / double(count);
    for (double& x : column) x = (x - mean) / std::sqrt(squares);
  }
  std::set<int64_t> taken;
  while (taken.size() < 24) {
    int64_t best = -1;
    double gain = -1e9;
    for (size_t i = 0; i < count; ++i) {
      if (taken.contains(int64_t(i))) continue;
      for (size_t j = 0; j < targets; ++j) {
        double mean = 0;
        for (const int64_t t : taken) mean += a[j][size_t(t)] / double(taken.size());
        if (a[j][i] - mean > gain + 1e-12) gain = a[j][i] - mean, best = int64_t(i);
      }
    }
    taken.insert(best);
  }
  EXPECT_EQ(chosen, std::vector<int64_t>(taken.begin(), taken.end()));
}

// A target that few documents serve gets its share, where the sum over targets forgets it.
TEST(Bids, ServesEveryTarget) {
  std::vector<double> common = noise(200, 1), rare(200, -0.1);
  for (size_t i = 0; i < 200; i += 20) rare[i] = 3, common[i] = -3;
  const auto chosen = *make("{name: bids, keep: 0.1}")->choose(*scored({common, rare}), 1);
  const auto served = std::count_if(chosen.begin(), chosen.end(), [](int64_t d) { return d % 20 == 0; });
  EXPECT_GE(served, 6);
  EXPECT_LE(served, 14);
}

TEST(Rho1, KeepsTheLargestExcessOfEverySequence) {
  EXPECT_EQ(kept_tokens(5, 0.6), 3);
  EXPECT_EQ(kept_tokens(10, 0.61), 7);
  EXPECT_EQ(kept_tokens(1, 0.01), 1);
  EXPECT_EQ(kept_tokens(0, 0.5), 0);
  Batch batch;
  batch.num_sequences = 2;
  batch.seq_len = 6;
  batch.loss_mask = {1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0};
  const std::vector<double> excess = {3, 1, 99, 2, 2, 99, -1, -3, -2, -2, 0, 0};
  keep_tokens(excess, 0.5, batch);
  EXPECT_EQ(batch.loss_mask, (std::vector<float>{1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0}));
}

TEST(RhoLoss, KeepsTheLargestExcessOfEveryDomain) {
  const std::vector<double> excess = {5, 1, 4, 2, 3, 9};
  const std::vector<int32_t> domain = {0, 1, 0, 1, 0, 1};
  EXPECT_EQ(keep_sequences(excess, domain, {2, 1}), (std::vector<int64_t>{0, 2, 5}));
  EXPECT_EQ(keep_sequences(excess, domain, {0, 3}), (std::vector<int64_t>{1, 3, 5}));
}

TEST(Subset, KeepsPairsTogetherAndCarriesTheirScores) {
  // Pairs have their margin at both answers; pair 2's is largest.
  std::vector<double> margin = {1, 1, 0, 0, 7, 7, 2, 2, 5, 5, 3, 3};
  auto corpus = scored({margin}, SetKind::kPreference);
  const auto selector = make("{name: gumbel, column: t0, temperature: 0, keep: 0.34}");
  const auto chosen = select_documents(*selector, std::move(corpus), 1);
  ASSERT_EQ(chosen->num_documents(), 4);  // a third of each domain's three pairs
  EXPECT_EQ(chosen->kind(), SetKind::kPreference);
  std::vector<int32_t> token(1);
  std::vector<int32_t> found;
  for (int64_t d = 0; d < 4; ++d) {
    chosen->read(d, 0, token);
    found.push_back(token[0]);
  }
  EXPECT_EQ(found, (std::vector<int32_t>{4, 5, 10, 11}));
  EXPECT_EQ(chosen->scores("score").values[0], (std::vector<double>{7, 7, 3, 3}));
  EXPECT_NE(chosen->selection(), "");
}

TEST(Subset, PlansOnlyWhatWasChosenAndBindsTheCheckpointToIt) {
  const size_t count = 40;
  auto half = [&](uint64_t seed) {
    return select_documents(*make("{name: gumbel, column: t0, keep: 0.5, temperature: 1}"),
                            scored({noise(count, 3)}), seed);
  };
  const auto a = half(1), b = half(2), same = half(1);
  ASSERT_EQ(a->num_documents(), b->num_documents());
  const Curriculum none;
  const PlannerConfig config{.global_batch = 4, .seq_len = 10};
  Planner one(config, *a, none), two(config, *b, none), again(config, *same, none);
  one.next({0.5, 0.5});
  EXPECT_NO_THROW(again.load(one.save()));
  try {
    two.load(one.save());
    FAIL() << "a plan over other documents was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kCheckpoint);
    EXPECT_NE(std::string(e.what()).find("selection"), std::string::npos);
  }
}

TEST(SelectorTable, EveryRowIsMadeFromItsNameAlone) {
  for (const auto& row : selector_table()) EXPECT_NO_THROW(make(row.name)) << row.name;
  EXPECT_THROW(make("{name: bands, keep: 1.5}"), Error);
  EXPECT_THROW(make("best"), Error);
}

}  // namespace
}  // namespace cadre::data
