// The planner's promises: exact order, exact shares, caps, and a state that is all there is to a plan.
#include "data/planner.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "data/planner/apportion.h"
#include "data/planner/interleave.h"
#include "data/planner/permutation.h"
#include "parallel/base/errors.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

using testing::numbered_corpus;
const Curriculum kNone;

std::string text_of(const BatchPlan& plan) {
  std::string out;
  for (const PlanSequence& s : plan.sequences) {
    out += fmt::format("[{}", s.domain);
    for (const PlanSegment& g : s.segments) out += fmt::format(" {}:{}+{}", g.document, g.begin, g.count);
    out += "]";
  }
  return out;
}

TEST(Permutation, IsABijectionForEverySizeAndDiffersByKey) {
  for (uint64_t size = 1; size <= 300; ++size) {
    for (uint64_t key = 0; key < 5; ++key) {
      const Permutation p(size, key);
      std::set<uint64_t> seen;
      for (uint64_t i = 0; i < size; ++i) seen.insert(p(i));
      ASSERT_EQ(seen.size(), size) << size << " key " << key;
      ASSERT_LT(*seen.rbegin(), size);
    }
  }
  for (const uint64_t size : {1023ull, 1024ull, 1025ull, 65537ull, 100000ull}) {
    const Permutation p(size, 3), q(size, 4);
    std::vector<bool> seen(size);
    uint64_t fixed = 0, same = 0;
    for (uint64_t i = 0; i < size; ++i) {
      ASSERT_FALSE(seen[p(i)]);
      seen[p(i)] = true;
      fixed += p(i) == i;
      same += p(i) == q(i);
    }
    EXPECT_LT(fixed, 12u);  // 1 expected, Poisson
    EXPECT_LT(same, 12u);
  }
  const Permutation huge((uint64_t(1) << 40) + 12345, 1);
  EXPECT_NE(huge(0), huge(1));
}

TEST(Permutation, SpreadsNeighboursOverTheWholeRange) {
  const uint64_t size = 10000;
  double mean_step = 0;
  const Permutation p(size, 99);
  for (uint64_t i = 0; i + 1 < size; ++i)
    mean_step += std::abs(double(p(i)) - double(p(i + 1))) / double(size - 1);
  EXPECT_NEAR(mean_step / double(size), 1.0 / 3, 0.02);  // of two independent uniform values
}

TEST(Apportion, CountsFollowTheWeightsAndTheErrorStaysBelowOne) {
  const base::Philox random(5);
  for (uint64_t trial = 0; trial < 30; ++trial) {
    const size_t num = 1 + random.bits(trial) % 9;
    std::vector<double> weights;
    double sum = 0;
    for (size_t k = 0; k < num; ++k)
      weights.push_back(std::pow(random.uniform(k, trial + 100), 3)), sum += weights.back();
    for (double& w : weights) w /= sum;
    const auto units = weight_units(weights);
    ASSERT_EQ(std::accumulate(units.begin(), units.end(), int64_t{0}), kWeightUnit);
    const int64_t batch = 1 + int64_t(random.bits(trial, 1) % 40), steps = 2000;
    std::vector<int64_t> error(num, 0), totals(num, 0), room(num, int64_t(1) << 62);
    for (int64_t step = 0; step < steps; ++step) {
      const auto counts = apportion(batch, units, room, error).value();
      ASSERT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), batch);
      ASSERT_EQ(std::accumulate(error.begin(), error.end(), int64_t{0}), 0);
      for (size_t k = 0; k < num; ++k) {
        ASSERT_GE(counts[k], 0);
        ASSERT_LT(std::abs(error[k]), kWeightUnit) << "share " << k << " step " << step;
        totals[k] += counts[k];
      }
    }
    for (size_t k = 0; k < num; ++k) EXPECT_NEAR(double(totals[k]), weights[k] * double(batch * steps), 1.01);
  }
}

TEST(Apportion, MovingWeightsNeverGiveNegativeCountsAndTheErrorStaysBounded) {
  const base::Philox random(6);
  const size_t num = 8;
  std::vector<int64_t> error(num, 0), room(num, int64_t(1) << 62);
  for (uint64_t step = 0; step < 20000; ++step) {
    std::vector<double> weights(num, 0.0);
    // Mostly one-hot jumps: the hardest case for carried errors.
    weights[random.bits(step) % num] = 0.9;
    weights[random.bits(step, 1) % num] += 0.1;
    const auto counts =
        apportion(1 + int64_t(random.bits(step, 2) % 5), weight_units(weights), room, error).value();
    for (size_t k = 0; k < num; ++k) {
      ASSERT_GE(counts[k], 0);
      ASSERT_LE(std::abs(double(error[k])) / double(kWeightUnit), 1 + std::log(double(num)));
    }
    ASSERT_EQ(std::accumulate(error.begin(), error.end(), int64_t{0}), 0);
  }
}

TEST(Apportion, AFullShareGivesItsWeightToTheOthersInProportion) {
  std::vector<int64_t> error = {0, 0, 0};
  const auto units = weight_units({0.5, 0.375, 0.125});
  EXPECT_EQ(apportion(16, units, {2, 100, 100}, error).value(),
            (std::vector<int64_t>{2, 11, 3}));  // 14 as 3 : 1
  EXPECT_EQ(std::accumulate(error.begin(), error.end(), int64_t{0}), 0);
  error = {0, 0, 0};
  EXPECT_EQ(apportion(16, units, {0, 4, 100}, error).value(), (std::vector<int64_t>{0, 4, 12}));
  error = {5, -5, 0};
  EXPECT_FALSE(apportion(16, units, {1, 2, 12}, error).has_value());
  EXPECT_FALSE(apportion(1, weight_units({1, 0, 0}), {0, 9, 9}, error).has_value());  // no weight is left
  EXPECT_EQ(error, (std::vector<int64_t>{5, -5, 0}));
}

TEST(Interleave, RunsAndStridesOfABatchAreDiverse) {
  const std::vector<int64_t> counts = {64, 64, 32, 32};
  for (const int ranks : {2, 3, 4, 8}) {
    double squares = 0;
    std::vector<double> mean(size_t(ranks), 0);
    for (uint64_t batch = 0; batch < 200; ++batch) {
      const std::vector<int> order = interleave(counts, batch);
      ASSERT_EQ(order.size(), 192u);
      for (int k = 0; k < 4; ++k) ASSERT_EQ(std::count(order.begin(), order.end(), k), counts[size_t(k)]);
      for (size_t rank = 0; rank < size_t(ranks); ++rank) {
        double share = 0;
        for (size_t i = rank; i < order.size(); i += size_t(ranks)) share += order[i] == 0;
        share *= ranks / 64.0;
        squares += (share - 1) * (share - 1) / (200 * ranks);
        mean[rank] += share / 200;
      }
      for (auto run = order.begin(); run != order.end();
           run += 24) {  // a micro-batch has 8 of stream 0 on average
        EXPECT_NEAR(double(std::count(run, run + 24, 0)), 8, 4);
      }
    }
    // No worse than dealing at random (the deviation of a binomial share), and no rank has a leaning.
    EXPECT_LT(std::sqrt(squares), 1.1 * std::sqrt(2.0 * ranks / 192)) << ranks;
    for (const double m : mean) EXPECT_NEAR(m, 1, 0.1) << ranks;
  }
  EXPECT_NE(interleave({8, 8}, 1), interleave({8, 8}, 2));
}

TEST(Planner, EveryPositionOfEveryDocumentIsUsedOnceAnEpoch) {
  const auto corpus = numbered_corpus({40, 17, 3}, 60);
  for (const bool pack : {true, false}) {
    Planner planner({.seed = 3, .global_batch = 8, .seq_len = 16, .pack = pack}, *corpus, kNone);
    std::map<std::pair<int64_t, int64_t>, int> uses;  // (document, position)
    std::vector<int64_t> drawn(3, 0), positions(3, 0);
    for (int64_t d = 0; d < 60; ++d)
      positions[size_t(corpus->document(d).domain)] += corpus->document(d).length - 1;
    for (int step = 0; step < 120; ++step) {
      const BatchPlan plan = planner.next({0.5, 0.3, 0.2});
      ASSERT_EQ(plan.sequences.size(), 8u);
      for (const PlanSequence& s : plan.sequences) {
        int64_t count = 0;
        for (const PlanSegment& g : s.segments) {
          ASSERT_EQ(corpus->document(g.document).domain, s.domain);
          ASSERT_LT(g.begin + g.count,
                    corpus->document(g.document).length);  // the last position predicts the last token
          for (int64_t i = 0; i < g.count; ++i) ++uses[{g.document, g.begin + i}];
          count += g.count;
        }
        ASSERT_TRUE(pack ? count == 16 : s.segments.size() == 1);
        drawn[size_t(s.domain)] += count;
      }
    }
    // After n tokens every position was used floor(n / epoch) or one more times.
    for (int64_t d = 0; d < 60; ++d) {
      const auto k = size_t(corpus->document(d).domain);
      const int64_t epochs = drawn[k] / positions[k];
      EXPECT_GT(epochs, 1);
      for (int64_t i = 0; i + 1 < corpus->document(d).length; ++i) {
        const int64_t n = uses[{d, i}];
        ASSERT_TRUE(n == epochs || n == epochs + 1)
            << "document " << d << " position " << i << ": " << n << " of " << epochs;
      }
    }
  }
}

TEST(Planner, ACutDocumentGoesOnInTheNextSequenceOfItsStream) {
  const auto corpus = numbered_corpus({5}, 200);
  Planner planner({.seed = 1, .global_batch = 1, .seq_len = 10}, *corpus, kNone);
  PlanSegment last{-1, 0, 0};
  int cuts = 0;
  for (int i = 0; i < 50; ++i) {
    const PlanSequence s = planner.next({1.0}).sequences[0];
    if (last.document >= 0 && last.begin + last.count < corpus->document(last.document).length - 1) {
      EXPECT_EQ(s.segments[0].document, last.document);
      EXPECT_EQ(s.segments[0].begin, last.begin + last.count);
      ++cuts;
    } else {
      EXPECT_EQ(s.segments[0].begin, 0);
    }
    last = s.segments.back();
  }
  EXPECT_GT(cuts, 20);
}

// Documents of up to 30 tokens in sequences of 20 positions: those that fit stand whole in one.
TEST(Planner, WholeDocumentsAreOnlyCutWhenTheyFitNowhere) {
  const auto corpus = numbered_corpus({60}, 30);
  Planner planner({.seed = 3, .global_batch = 5, .seq_len = 20, .whole = true}, *corpus, kNone);
  std::map<int64_t, int64_t> used;
  int cut = 0, several = 0;
  for (int batch = 0; batch < 20; ++batch) {
    for (const PlanSequence& s : planner.next({1.0}).sequences) {
      int64_t sum = 0;
      several += s.segments.size() > 1 ? 1 : 0;
      for (const PlanSegment& g : s.segments) {
        const int64_t positions = corpus->document(g.document).length - 1;
        sum += g.count;
        used[g.document] += g.count;
        if (g.count == positions) continue;
        ++cut;
        EXPECT_GT(positions, 20) << "document " << g.document;
      }
      EXPECT_LE(sum, 20);
      EXPECT_GT(sum, 0);
    }
  }
  EXPECT_GT(cut, 5);
  EXPECT_GT(several, 20);
  for (const auto& [document, count] : used) {
    const int64_t positions = corpus->document(document).length - 1;
    if (positions <= 20) {
      EXPECT_EQ(count % positions, 0) << "document " << document;
    }
  }
}

TEST(Planner, EpochsAndSeedsHaveTheirOwnOrder) {
  const auto corpus = numbered_corpus({50}, 2);  // documents of one position
  const auto order = [&](uint64_t seed, int epochs) {
    Planner planner({.seed = seed, .global_batch = 1, .seq_len = 50}, *corpus, kNone);
    std::vector<int64_t> out;
    for (int e = 0; e < epochs; ++e) {
      out.clear();
      const BatchPlan plan = planner.next({1.0});
      for (const PlanSegment& g : plan.sequences[0].segments) out.push_back(g.document);
    }
    return out;
  };
  EXPECT_EQ(order(1, 1), order(1, 1));
  EXPECT_NE(order(1, 1), order(1, 2));
  EXPECT_NE(order(1, 1), order(2, 1));
}

TEST(Planner, ADomainSmallerThanASequenceIsRepeatedWithinIt) {
  const auto corpus = numbered_corpus({2, 100}, 4);
  Planner planner({.seed = 1, .global_batch = 4, .seq_len = 64}, *corpus, kNone);
  for (int step = 0; step < 5; ++step) {
    const BatchPlan plan = planner.next({0.5, 0.5});
    EXPECT_EQ(plan.domain_sequences, (std::vector<int64_t>{2, 2}));
    EXPECT_EQ(plan.domain_tokens, (std::vector<int64_t>{128, 128}));
  }
}

TEST(Planner, CapsAreUsedExactlyAndThenTheirWeightGoesToTheOthers) {
  const auto corpus = numbered_corpus({6, 60, 200}, 40);
  std::vector<int64_t> positions(3, 0);
  for (int64_t d = 0; d < corpus->num_documents(); ++d)
    positions[size_t(corpus->document(d).domain)] += corpus->document(d).length - 1;
  for (const bool pack : {true, false}) {
    Planner planner({.seed = 3, .global_batch = 4, .seq_len = 32, .pack = pack, .max_epochs = 2}, *corpus,
                    kNone);
    std::map<int64_t, int> starts;
    std::vector<int64_t> drawn(3, 0);
    int64_t batches = 0;
    std::string message;
    try {
      for (;; ++batches) {
        const BatchPlan plan = planner.next({0.4, 0.4, 0.2});
        for (size_t k = 0; k < 3; ++k) drawn[k] += plan.domain_tokens[k];
        for (const PlanSequence& s : plan.sequences) {
          for (const PlanSegment& g : s.segments) starts[g.document] += g.begin == 0;
        }
        ASSERT_LT(batches, 100000);
      }
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData);
      message = e.what();
    }
    EXPECT_NE(message.find("max_epochs"), std::string::npos) << message;
    for (const auto& [document, n] : starts) EXPECT_LE(n, 2) << document;
    EXPECT_EQ(drawn[0], 2 * positions[0]);
    EXPECT_EQ(drawn[1], 2 * positions[1]);
    // The last batch of all could not be filled, so at most that many sequences are left over.
    EXPECT_GT(drawn[2], 2 * positions[2] - 4 * 32);
    EXPECT_LE(drawn[2], 2 * positions[2]);
  }
}

TEST(Planner, ContinuesIdenticallyFromAnySavedState) {
  const auto corpus = numbered_corpus({40, 17, 3}, 60);
  const PlannerConfig config{.seed = 9, .global_batch = 5, .seq_len = 16, .max_epochs = 30};
  const auto weights = [](int step) {
    return step % 2 ? std::vector<double>{0.5, 0.3, 0.2} : std::vector<double>{0.1, 0.1, 0.8};
  };
  std::vector<std::string> plans, states;
  Planner whole(config, *corpus, kNone);
  for (int step = 0; step < 30; ++step) {
    states.push_back(whole.save().dump());
    plans.push_back(text_of(whole.next(weights(step))));
  }
  for (int from = 0; from < 30; from += 4) {
    Planner resumed(config, *corpus, kNone);
    resumed.next({0, 1, 0});  // whatever it did before is forgotten
    resumed.load(nlohmann::json::parse(states[size_t(from)]));
    for (int step = from; step < 30; ++step)
      ASSERT_EQ(text_of(resumed.next(weights(step))), plans[size_t(step)]) << from << " " << step;
  }
}

TEST(Planner, AStateThatDoesNotFitIsRefusedAndChangesNothing) {
  const auto corpus = numbered_corpus({40, 17}, 60), other = numbered_corpus({40, 18}, 60);
  Planner planner({.seed = 9, .seq_len = 16}, *corpus, kNone),
      twin({.seed = 9, .seq_len = 16}, *corpus, kNone);
  planner.next({0.5, 0.5});
  const nlohmann::json good = planner.save();
  const auto refused = [&](const nlohmann::json& state, Planner& into) {
    try {
      into.load(state);
    } catch (const Error& e) {
      return e.code() == ExitCode::kCheckpoint;
    }
    return false;
  };
  Planner wrong_seed({.seed = 8, .seq_len = 16}, *corpus, kNone),
      wrong_length({.seed = 9, .seq_len = 17}, *corpus, kNone);
  Planner wrong_data({.seed = 9, .seq_len = 16}, *other, kNone);
  EXPECT_TRUE(refused(good, wrong_seed));
  EXPECT_TRUE(refused(good, wrong_length));
  EXPECT_TRUE(refused(good, wrong_data));
  for (const char* key : {"error", "streams", "batches", "bucket_error", "seed"}) {
    nlohmann::json bad = good;
    bad.erase(key);
    EXPECT_TRUE(refused(bad, twin)) << key;
  }
  for (const auto& stream :
       {nlohmann::json{0, 1000, 0, 0, 0}, {0, 0, 1000, 0, 0}, {-1, 0, 0, 0, 0}, {7, 0, 0, 0, 0}, {"x"}}) {
    nlohmann::json bad = good;
    bad["streams"][0] = stream;
    EXPECT_TRUE(refused(bad, twin)) << stream;
  }
  EXPECT_EQ(twin.save(), Planner({.seed = 9, .seq_len = 16}, *corpus, kNone).save());
  EXPECT_EQ(text_of(twin.next({0.5, 0.5})),
            text_of(Planner({.seed = 9, .seq_len = 16}, *corpus, kNone).next({0.5, 0.5})));
}

TEST(Planner, WrongWeightsAreRefused) {
  const auto corpus = numbered_corpus({4, 4}, 10);
  Planner planner({}, *corpus, kNone);
  for (const std::vector<double>& w :
       {std::vector<double>{1}, {0.5, 0.6}, {1.5, -0.5}, {std::nan(""), 1}, {0, 0}}) {
    EXPECT_THROW(planner.next(w), Error);
  }
}

// Two buckets by the document's number; the second one's share grows with the domain's progress.
class HalfAndHalf : public Curriculum {
 public:
  int num_buckets() const override { return 2; }
  int bucket(int64_t document) const override {
    return document % 4 < 2 ? 0 : 1;
  }  // numbered_corpus alternates domains
  std::vector<double> quota(double progress, int) const override {
    seen.push_back(progress);
    return {1 - progress, progress};
  }
  mutable std::vector<double> seen;
};

TEST(Planner, ACurriculumsBucketsGetTheirQuotaByTheDomainsOwnProgress) {
  const auto corpus = numbered_corpus({200, 200}, 30);
  const HalfAndHalf curriculum;
  const int64_t steps = 100;
  const PlannerConfig config{
      .seed = 2, .global_batch = 8, .seq_len = 16, .max_epochs = 0, .total_tokens = steps * 8 * 16};
  Planner planner(config, *corpus, curriculum);
  std::vector<int> first(2, 0), second(2, 0);  // by half of the run
  for (int64_t step = 0; step < steps; ++step) {
    for (const PlanSequence& s : planner.next({0.75, 0.25}).sequences) {
      const int bucket = curriculum.bucket(s.segments[0].document);
      for (const PlanSegment& g : s.segments)
        ASSERT_EQ(curriculum.bucket(g.document), bucket);  // a sequence is of one stream
      ++(step < steps / 2 ? first : second)[size_t(bucket)];
    }
  }
  EXPECT_EQ(first[0] + first[1], 400);
  EXPECT_NEAR(first[1], 100, 12);  // the mean share of bucket 1 over the first half is 1/4
  EXPECT_NEAR(second[1], 300, 12);
  EXPECT_EQ(curriculum.seen.front(), 0.0);
  EXPECT_NEAR(curriculum.seen.back(), 0.99, 0.011);  // each domain reaches its end when the run does
  EXPECT_TRUE(std::is_sorted(curriculum.seen.begin(), curriculum.seen.end(),
                             [](double a, double b) { return a < b - 0.02; }));
}

TEST(Planner, ASpentBucketLeavesItsQuotaToTheOther) {
  const auto corpus = numbered_corpus({20, 20}, 30);
  class OnlyFirst : public HalfAndHalf {
    std::vector<double> quota(double, int) const override { return {1, 0}; }
  } curriculum;
  Planner planner({.seed = 2, .global_batch = 2, .seq_len = 16, .max_epochs = 1}, *corpus, curriculum);
  int64_t positions = 0, drawn = 0;
  for (int64_t d = 0; d < 40; ++d) positions += corpus->document(d).length - 1;
  std::vector<int> buckets;
  try {
    for (;;) {
      const BatchPlan plan = planner.next({0.5, 0.5});
      drawn += plan.domain_tokens[0] + plan.domain_tokens[1];
      for (const PlanSequence& s : plan.sequences)
        buckets.push_back(curriculum.bucket(s.segments[0].document));
    }
  } catch (const Error&) {
  }
  EXPECT_EQ(buckets.front(), 0);
  EXPECT_EQ(buckets.back(), 1);
  EXPECT_GE(drawn, positions - 2 * 16);
}

}  // namespace
}  // namespace cadre::data
