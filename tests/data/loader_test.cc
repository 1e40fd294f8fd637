// Batches hold exactly what was planned, for any number of ranks, with or without reading ahead.
#include "data/loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "data/batch_rows.h"
#include "parallel/base/errors.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

using testing::kNone;
using testing::numbered_corpus;

bool same(const Batch& a, const Batch& b) {
  return a.num_sequences == b.num_sequences && a.tokens == b.tokens && a.targets == b.targets &&
         a.loss_mask == b.loss_mask && a.segment == b.segment && a.position == b.position &&
         a.domain == b.domain && a.document == b.document;
}

bool same(const LoadedBatch& a, const LoadedBatch& b) {
  bool equal = a.micro.size() == b.micro.size() && a.counts.trained_tokens == b.counts.trained_tokens &&
               a.domain_tokens == b.domain_tokens && a.weights == b.weights;
  for (size_t i = 0; equal && i < a.micro.size(); ++i) equal = same(a.micro[i], b.micro[i]);
  return equal;
}

// Checks each position of a numbered corpus's batch against what its document id says.
void check_positions(const Batch& b, const Corpus& corpus, bool mask_documents) {
  for (int64_t row = 0; row < b.num_sequences; ++row) {
    int32_t last_segment = -1;
    for (int64_t i = 0; i < b.seq_len; ++i) {
      const auto at = size_t(row * b.seq_len + i);
      if (b.document[at] < 0) {
        EXPECT_EQ(b.segment[at], -1);
        EXPECT_EQ(b.loss_mask[at], 0);
        EXPECT_EQ(b.tokens[at], 0);
        EXPECT_EQ(b.position[at], 0);
        continue;
      }
      const int64_t in_document = b.tokens[at] - b.document[at] * 1000;
      ASSERT_EQ(b.tokens[at] / 1000, b.document[at]);
      ASSERT_EQ(b.targets[at], b.tokens[at] + 1);
      ASSERT_LT(in_document + 1, corpus.document(b.document[at]).length);
      ASSERT_EQ(b.domain[at], corpus.document(b.document[at]).domain);
      ASSERT_EQ(b.loss_mask[at], 1);
      if (!mask_documents) {
        EXPECT_EQ(b.segment[at], 0);
        EXPECT_EQ(b.position[at], i);
        continue;
      }
      const bool starts = b.segment[at] != last_segment;
      if (starts) {
        ASSERT_EQ(b.segment[at], last_segment + 1);
        ASSERT_EQ(b.position[at], 0);
      } else {
        ASSERT_EQ(b.position[at], b.position[at - 1] + 1);
        ASSERT_EQ(b.tokens[at], b.targets[at - 1]);
      }
      last_segment = b.segment[at];
    }
  }
}

TEST(BuildBatch, EveryPositionHoldsItsTokenTargetAndIds) {
  const auto corpus = numbered_corpus({30, 12}, 40);
  for (const bool pack : {true, false}) {
    for (const bool mask : {true, false}) {
      Planner planner({.seed = 3, .global_batch = 6, .seq_len = 24, .pack = pack}, *corpus, kNone);
      for (int step = 0; step < 20; ++step) {
        const BatchPlan plan = planner.next({0.6, 0.4});
        const LoadedBatch batch =
            build_batch(plan, *corpus, {.micro_batch = 4, .seq_len = 24, .mask_documents = mask});
        ASSERT_EQ(batch.micro.size(), 2u);
        double trained = 0;
        for (const Batch& micro : batch.micro) {
          check_positions(micro, *corpus, mask);
          for (const float m : micro.loss_mask) trained += m;
        }
        EXPECT_EQ(batch.counts.trained_tokens, int64_t(trained));
        EXPECT_EQ(batch.counts.real_tokens, int64_t(trained));
        EXPECT_EQ(batch.counts.sequences, 6);
        EXPECT_EQ(batch.domain_tokens, plan.domain_tokens);
      }
    }
  }
}

// The parts of a row side by side are the row, and each knows the whole row's segments.
TEST(BuildBatch, PartsOfARowAreTheRow) {
  const auto corpus = numbered_corpus({30, 12}, 40);
  Planner planner({.seed = 3, .global_batch = 6, .seq_len = 24}, *corpus, kNone);
  const BatchPlan plan = planner.next({0.6, 0.4});
  const Batch whole = build_batch(plan, *corpus, {.micro_batch = 6, .seq_len = 24}).micro.at(0);
  for (const int parts : {2, 3, 4}) {
    Batch together = empty_batch(6, 24);
    const auto length = size_t(24 / parts);
    for (int part = 0; part < parts; ++part) {
      const Batch own =
          build_batch(plan, *corpus, {.micro_batch = 6, .seq_len = 24, .part = part, .parts = parts})
              .micro.at(0);
      EXPECT_EQ(own.row_segment, whole.segment);
      ASSERT_EQ(own.num_sequences, 6);
      ASSERT_EQ(own.tokens.size(), 6 * length);
      const auto place = [&](const auto& from, auto& into) {
        for (size_t t = 0; t < from.size(); ++t)
          into[t / length * 24 + size_t(part) * length + t % length] = from[t];
      };
      place(own.tokens, together.tokens);
      place(own.targets, together.targets);
      place(own.loss_mask, together.loss_mask);
      place(own.segment, together.segment);
      place(own.position, together.position);
      place(own.domain, together.domain);
      place(own.document, together.document);
    }
    EXPECT_TRUE(same(together, whole)) << parts;
  }
}

TEST(BuildBatch, RanksTogetherHoldTheGlobalBatchAndAgreeOnItsShape) {
  const auto corpus = numbered_corpus({30, 12}, 40);
  Planner planner({.seed = 3, .global_batch = 10, .seq_len = 24}, *corpus, kNone);
  for (int step = 0; step < 5; ++step) {
    const BatchPlan plan = planner.next({0.6, 0.4});
    const LoadedBatch whole = build_batch(plan, *corpus, {.micro_batch = 10, .seq_len = 24});
    for (const int ranks : {1, 2, 3, 4, 7, 10, 13}) {
      for (const int64_t micro_batch : {1, 2, 3, 8}) {
        std::vector<int64_t> rows(10, 0);
        std::vector<int64_t> shape;
        for (int rank = 0; rank < ranks; ++rank) {
          const LoadedBatch part = build_batch(
              plan, *corpus,
              {.micro_batch = micro_batch, .seq_len = 24, .data_rank = rank, .data_ranks = ranks});
          EXPECT_EQ(part.counts.trained_tokens, whole.counts.trained_tokens);
          const int64_t mine = (10 + ranks - 1) / ranks;
          ASSERT_EQ(int64_t(part.micro.size()), (mine + micro_batch - 1) / micro_batch);
          std::vector<int64_t> my_shape;
          int64_t index = rank;
          for (const Batch& micro : part.micro) {
            my_shape.push_back(micro.num_sequences);
            for (int64_t row = 0; row < micro.num_sequences; ++row, index += ranks) {
              if (index >= 10) {
                EXPECT_EQ(micro.segment[size_t(row * 24)], -1);
                continue;
              }
              ++rows[size_t(index)];
              for (int64_t i = 0; i < 24; ++i) {
                ASSERT_EQ(micro.tokens[size_t(row * 24 + i)], whole.micro[0].tokens[size_t(index * 24 + i)]);
                ASSERT_EQ(micro.document[size_t(row * 24 + i)],
                          whole.micro[0].document[size_t(index * 24 + i)]);
              }
            }
          }
          if (rank == 0) shape = my_shape;
          EXPECT_EQ(my_shape, shape);
        }
        EXPECT_EQ(rows, std::vector<int64_t>(10, 1));
      }
    }
  }
}

TEST(Loader, ReadingAheadChangesNothing) {
  const auto corpus = numbered_corpus({30, 12}, 40);
  Planner planner({.seed = 3, .global_batch = 6, .seq_len = 24}, *corpus, kNone);
  Loader now({.seq_len = 24, .prefetch = 0}, *corpus), ahead({.seq_len = 24, .prefetch = 3}, *corpus);
  std::vector<BatchPlan> plans;
  for (int i = 0; i < 40; ++i) plans.push_back(planner.next({0.6, 0.4}));
  for (size_t i = 0; i < 3; ++i) ahead.submit(plans[i]);
  for (size_t i = 0; i < plans.size(); ++i) {
    now.submit(plans[i]);
    if (i + 3 < plans.size()) ahead.submit(plans[i + 3]);
    ASSERT_TRUE(same(now.next(), ahead.next())) << i;
  }
  EXPECT_GE(ahead.last_wait_ms(), 0);
  EXPECT_THROW(ahead.next(), std::logic_error);  // nothing submitted: an error, not a wait for ever
}

// Reads slowly, and fails from the given read on.
class TroubledCorpus : public Corpus {
 public:
  TroubledCorpus(const Corpus& corpus, int fail_at, int delay_ms)
      : corpus_(corpus), fail_at_(fail_at), delay_ms_(delay_ms) {}
  int64_t num_documents() const override { return corpus_.num_documents(); }
  DocumentInfo document(int64_t index) const override { return corpus_.document(index); }
  int num_domains() const override { return corpus_.num_domains(); }
  const std::string& domain_name(int domain) const override { return corpus_.domain_name(domain); }
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const override {
    if (delay_ms_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms_));
    require(reads_++ < fail_at_, ExitCode::kData, "the shard went away");
    corpus_.read(document, begin, out);
  }

 private:
  const Corpus& corpus_;
  int fail_at_, delay_ms_;
  mutable std::atomic<int> reads_ = 0;
};

TEST(Loader, AReadersErrorComesOutOfNextInItsTurnAndStays) {
  const auto good = numbered_corpus({30, 12}, 40);
  for (const int prefetch : {0, 3}) {
    Planner planner({.seed = 3, .global_batch = 2, .seq_len = 24}, *good, kNone);
    std::vector<BatchPlan> plans;
    int reads = 0;
    for (int i = 0; i < 6; ++i) {
      plans.push_back(planner.next({0.6, 0.4}));
      for (const PlanSequence& s : plans.back().sequences) reads += i < 3 ? int(s.segments.size()) : 0;
    }
    const TroubledCorpus corpus(*good, reads, 0);
    Loader loader({.seq_len = 24, .prefetch = prefetch}, corpus);
    for (const BatchPlan& plan : plans) loader.submit(plan);
    for (int i = 0; i < 3; ++i) EXPECT_NO_THROW(loader.next()) << i;
    for (int i = 0; i < 3; ++i) {
      try {
        loader.next();
        ADD_FAILURE() << "no error";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::kData);
        EXPECT_STREQ(e.what(), "the shard went away");
      }
    }
  }
}

TEST(Loader, EndsCleanlyWithWorkLeft) {
  const auto good = numbered_corpus({30}, 40);
  const TroubledCorpus slow(*good, 1 << 30, 1);
  for (int i = 0; i < 10; ++i) {
    Planner planner({.seed = 3, .global_batch = 2, .seq_len = 24}, *good, kNone);
    Loader loader({.seq_len = 24, .prefetch = 2}, slow);
    for (int j = 0; j < 20; ++j) loader.submit(planner.next({1.0}));
    loader.next();
  }
}

// The reader may be ahead when next() is called, so a single wait can be short; the reads of 20 batches, a
// millisecond each, cannot all fit into the gaps between the calls.
TEST(Loader, ReportsItsWait) {
  const auto good = numbered_corpus({30}, 40);
  const TroubledCorpus slow(*good, 1 << 30, 1);
  Planner planner({.seed = 3, .global_batch = 2, .seq_len = 24}, *good, kNone);
  Loader loader({.seq_len = 24, .prefetch = 2}, slow);
  for (int j = 0; j < 20; ++j) loader.submit(planner.next({1.0}));
  double waited = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (int j = 0; j < 20; ++j) {
    loader.next();
    waited += loader.last_wait_ms();
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  EXPECT_GT(waited, 0);
  EXPECT_LE(waited, took.count());
}

}  // namespace
}  // namespace cadre::data
