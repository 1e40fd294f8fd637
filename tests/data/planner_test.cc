// The planner's promises: exact order, exact shares, caps, quotas of buckets.
#include "data/planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "parallel/base/errors.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

using testing::kNone;
using testing::numbered_corpus;

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
