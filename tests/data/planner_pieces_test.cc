// data.shuffle: pieces: what each epoch holds, in which order.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <set>

#include "data/loader.h"
#include "data/planner.h"
#include "data/planner/permutation.h"
#include "parallel/base/errors.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

using testing::kNone;
using testing::numbered_corpus;
using testing::words;

std::vector<int64_t> positions_by_domain(const Corpus& corpus) {
  std::vector<int64_t> sums(size_t(corpus.num_domains()), 0);
  for (int64_t d = 0; d < corpus.num_documents(); ++d)
    sums[size_t(corpus.document(d).domain)] += corpus.document(d).length - 1;
  return sums;
}

// Counts the uses of every position in the order in which they come, and that none is used again before all of its domain were.
class Ledger {
 public:
  explicit Ledger(const Corpus& corpus) : corpus_(corpus), all_(positions_by_domain(corpus)) {}
  void add(const BatchPlan& plan) {
    for (const PlanSequence& s : plan.sequences) {
      for (const PlanSegment& g : s.segments) {
        ASSERT_EQ(corpus_.document(g.document).domain, s.domain);
        ASSERT_GT(g.count, 0);
        ASSERT_LT(g.begin + g.count, corpus_.document(g.document).length);
        for (int64_t i = 0; i < g.count; ++i) add(s.domain, g.document, g.begin + i);
      }
    }
  }
  int64_t used(int domain, int times) { return times_[{domain, times}]; }

 private:
  void add(int domain, int64_t document, int64_t position) {
    const int before = uses_[{document, position}]++;
    if (before > 0) {
      ASSERT_EQ((times_[{domain, before}]), all_[size_t(domain)])
          << "document " << document << " position " << position << " a time " << before + 1;
    }
    ++times_[{domain, before + 1}];
  }

  const Corpus& corpus_;
  std::vector<int64_t> all_;
  std::map<std::pair<int64_t, int64_t>, int> uses_;
  std::map<std::pair<int, int>, int64_t> times_;  // positions that were used at least so many times
};

TEST(PlannerPieces, EveryPositionComesOnceBeforeAnyComesAgain) {
  for (const uint64_t seed : {1u, 2u, 3u, 4u}) {
    for (const int64_t seq_len : {1, 7, 16, 50, 300}) {
      for (const bool pack : {true, false}) {
        const auto corpus = numbered_corpus({20, 9, 1}, 120, seed);
        Planner planner({.seed = seed, .global_batch = 8, .seq_len = seq_len, .pack = pack, .pieces = true},
                        *corpus, kNone);
        Ledger ledger(*corpus);
        const int64_t epoch = positions_by_domain(*corpus)[0];
        for (int64_t drawn = 0; drawn < 2 * epoch + epoch / 2;) {
          const BatchPlan plan = planner.next({0.5, 0.3, 0.2});
          ledger.add(plan);
          ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << ", seq_len " << seq_len << ", pack " << pack;
          drawn += plan.domain_tokens[0];
        }
        EXPECT_EQ(ledger.used(0, 2), epoch);
      }
    }
  }
}

// Lists in place of numbers and sums: what stream.h says, written out for one stream.
std::vector<PlanSequence> naive_sequences(const Corpus& corpus, uint64_t key, int64_t seq_len, int epochs) {
  std::vector<PlanSegment> fulls, rests;
  int64_t rest_tokens = 0;
  for (int64_t d = 0; d < corpus.num_documents(); ++d) {
    const int64_t n = corpus.document(d).length - 1;
    for (int64_t begin = 0; begin < n; begin += seq_len) {
      const PlanSegment piece{d, begin, std::min(seq_len, n - begin)};
      (piece.count == seq_len ? fulls : rests).push_back(piece);
      if (piece.count < seq_len) rest_tokens += piece.count;
    }
  }
  const auto shuffled = [](const std::vector<PlanSegment>& list, uint64_t by) {
    std::deque<PlanSegment> out;
    for (size_t i = 0; i < list.size(); ++i) out.push_back(list[Permutation(list.size(), by)(i)]);
    return out;
  };
  std::vector<PlanSequence> sequences;
  int64_t open = 0;  // tokens in the last epoch's last sequence, when that has room
  for (int epoch = 0; epoch < epochs; ++epoch) {
    auto full_left = shuffled(fulls, base::mix(base::mix(key, base::hash_name("full")), uint64_t(epoch)));
    auto rest_left = shuffled(rests, base::mix(key, uint64_t(epoch)));
    int64_t drawn = 0;
    const auto take_rests = [&] {  // into the last sequence
      while (open < seq_len && !rest_left.empty()) {
        PlanSegment& r = rest_left.front();
        const int64_t count = std::min(seq_len - open, r.count);
        sequences.back().segments.push_back({r.document, r.begin, count});
        r.begin += count, r.count -= count, open += count, drawn += count;
        if (r.count == 0) rest_left.pop_front();
      }
    };
    if (open > 0 && open < seq_len) take_rests();
    while (!full_left.empty() || !rest_left.empty()) {
      const auto full_drawn = int64_t(fulls.size() - full_left.size());
      sequences.push_back({0, {}});
      if (!full_left.empty() && (drawn + seq_len) * int64_t(fulls.size()) > rest_tokens * full_drawn) {
        sequences.back().segments.push_back(full_left.front());
        full_left.pop_front();
        open = seq_len;
      } else {
        open = 0;
        take_rests();
      }
    }
  }
  return sequences;
}

TEST(PlannerPieces, OrderIsThatOfTheNaiveLists) {
  int64_t short_ones = 0;
  for (const uint64_t seed : {1u, 2u, 3u, 4u, 5u, 6u}) {
    for (const int64_t seq_len : {1, 3, 10, 24, 64, 200}) {
      for (const int documents : {1, 2, 30}) {
        const auto corpus = numbered_corpus({documents}, 90, seed);
        // The key of the planner's first stream.
        const uint64_t key = base::mix(seed, base::mix(base::hash_name("stream"), 0));
        auto expected = naive_sequences(*corpus, key, seq_len, 4);
        expected.pop_back();  // an epoch that is not there would fill it up
        Planner planner({.seed = seed, .global_batch = 1, .seq_len = seq_len, .pieces = true}, *corpus,
                        kNone);
        for (size_t i = 0; i < expected.size(); ++i) {
          int64_t count = 0;
          for (const PlanSegment& g : expected[i].segments) count += g.count;
          short_ones += count < seq_len;
          ASSERT_EQ(words(planner.next({1.0})), words(expected[i]))
              << "seed " << seed << ", seq_len " << seq_len << ", documents " << documents << ", sequence "
              << i;
        }
      }
    }
  }
  EXPECT_GT(short_ones, 0);
}

TEST(PlannerPieces, AFullPieceStandsAloneAndRestsFillSequencesEvenlyOverTheEpoch) {
  const auto corpus = numbered_corpus({200}, 150);
  const int64_t seq_len = 20, all = positions_by_domain(*corpus)[0];
  Planner planner({.seed = 5, .global_batch = 1, .seq_len = seq_len, .pieces = true}, *corpus, kNone);
  std::vector<int64_t> of_rests;
  for (int64_t i = 0; i < all / seq_len; ++i) {
    const PlanSequence s = planner.next({1.0}).sequences[0];
    int64_t count = 0;
    for (const PlanSegment& g : s.segments) count += g.count;
    ASSERT_EQ(count, seq_len) << "nothing is padding while there are rests enough";
    if (s.segments.size() == 1 && s.segments[0].count == seq_len) {
      EXPECT_EQ(s.segments[0].begin % seq_len, 0);
    } else {
      of_rests.push_back(i);
    }
  }
  ASSERT_GT(of_rests.size(), 50u);
  for (size_t i = 0; i < of_rests.size(); ++i) {
    const double place = double(of_rests[i]) / double(all / seq_len),
                 due = double(i + 1) / double(of_rests.size());
    EXPECT_NEAR(place, due, 0.03);
  }
}

TEST(PlannerPieces, ABatchHoldsManyDocumentsWhereWholeOnesGiveFew) {
  std::vector<MemoryDocument> documents;
  for (int d = 0; d < 100; ++d) documents.push_back({0, std::vector<int32_t>(size_t(401 + d), d), 10});
  const auto corpus = make_memory_corpus({"a"}, std::move(documents));
  const auto seen = [&](bool pieces) {
    Planner planner({.seed = 1, .global_batch = 16, .seq_len = 10, .pieces = pieces}, *corpus, kNone);
    double sum = 0;
    for (int i = 0; i < 50; ++i) {
      std::set<int64_t> one;
      for (const PlanSequence& s : planner.next({1.0}).sequences) one.insert(s.segments[0].document);
      sum += double(one.size()) / 50;
    }
    return sum;
  };
  EXPECT_LT(seen(false), 2);
  EXPECT_GT(seen(true), 14);  // 16 drawn from 100 are 14.9 different ones in the mean
}

TEST(PlannerPieces, EpochsAndSeedsHaveTheirOwnOrder) {
  const auto one = make_memory_corpus({"a"}, {{0, std::vector<int32_t>(501, 1), 10}});
  const auto order = [&](uint64_t seed) {
    Planner planner({.seed = seed, .global_batch = 50, .seq_len = 10, .pieces = true}, *one, kNone);
    return std::pair{words(planner.next({1.0})), words(planner.next({1.0}))};
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1).first, order(1).second);
  EXPECT_NE(order(1).first, order(2).first);
}

TEST(PlannerPieces, DocumentsShorterThanASequenceArePlannedAsWholeOnes) {
  const auto corpus = numbered_corpus({40, 30}, 32);
  for (const bool pack : {true, false}) {
    PlannerConfig config{.seed = 3, .global_batch = 6, .seq_len = 32, .pack = pack, .max_epochs = 3};
    Planner documents(config, *corpus, kNone);
    config.pieces = true;
    Planner pieces(config, *corpus, kNone);
    for (int i = 0; i < 15; ++i) ASSERT_EQ(words(pieces.next({0.6, 0.4})), words(documents.next({0.6, 0.4})));
  }
}

// Caps that are whole numbers of epochs and ones that are not.
TEST(PlannerPieces, CapsAreUsedExactly) {
  const auto corpus = numbered_corpus({6, 200}, 100);
  const auto positions = positions_by_domain(*corpus);
  for (const double epochs : {1.0, 2.0, 1.37}) {
    for (const int64_t seq_len : {11, 32, 250}) {
      Planner planner(
          {.seed = 3, .global_batch = 4, .seq_len = seq_len, .pieces = true, .max_epochs = epochs}, *corpus,
          kNone);
      Ledger ledger(*corpus);
      int64_t drawn = 0;
      try {
        for (;;) {
          const nlohmann::json state = nlohmann::json::parse(planner.save().dump());
          ASSERT_NO_THROW(planner.load(state)) << state.dump();
          const BatchPlan plan = planner.next({0.5, 0.5});
          ledger.add(plan);
          drawn += plan.domain_tokens[0];
        }
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::kData);
      }
      EXPECT_EQ(drawn, int64_t(std::ceil(epochs * double(positions[0])))) << epochs << " " << seq_len;
    }
  }
}

// The cap ends the stream in the middle of a full piece, with no rests whose tokens it could be taken for.
TEST(PlannerPieces, AStreamThatEndsInAFullPieceIsSavedAndLoaded) {
  const MemoryDocument five{0, std::vector<int32_t>(41, 1), 10}, other{1, std::vector<int32_t>(4001, 1), 10};
  const auto corpus = make_memory_corpus({"a", "b"}, {five, other, five});
  Planner planner({.seed = 3, .global_batch = 4, .seq_len = 8, .pieces = true, .max_epochs = 1.55}, *corpus,
                  kNone);
  int64_t drawn = 0;
  for (int i = 0; i < 20; ++i) {
    const nlohmann::json state = planner.save();
    ASSERT_NO_THROW(planner.load(state)) << state.dump();
    drawn += planner.next({0.5, 0.5}).domain_tokens[0];
  }
  EXPECT_EQ(drawn, 124);
}

// Two buckets by the document's number, in turn.
class Halves : public Curriculum {
 public:
  int num_buckets() const override { return 2; }
  int bucket(int64_t document) const override { return int(document % 4 / 2); }
  std::vector<double> quota(double progress, int) const override { return {1 - progress, progress}; }
};

TEST(PlannerPieces, ACurriculumsBucketsKeepTheirDocumentsAndUseEachOnce) {
  const auto corpus = numbered_corpus({60, 60}, 150);
  const Halves order;
  Planner planner({.seed = 2, .global_batch = 4, .seq_len = 16, .pieces = true, .max_epochs = 1}, *corpus,
                  order);
  Ledger ledger(*corpus);
  int64_t drawn = 0;
  std::vector<int> early;  // by bucket
  try {
    for (int step = 0;; ++step) {
      const BatchPlan plan = planner.next({0.5, 0.5});
      ledger.add(plan);
      drawn += plan.domain_tokens[0] + plan.domain_tokens[1];
      for (const PlanSequence& s : plan.sequences) {
        for (const PlanSegment& g : s.segments)
          ASSERT_EQ(order.bucket(g.document), order.bucket(s.segments[0].document));
        if (step < 20) early.push_back(order.bucket(s.segments[0].document));
      }
    }
  } catch (const Error&) {
  }
  const auto positions = positions_by_domain(*corpus);
  EXPECT_GE(drawn, positions[0] + positions[1] - 8 * 16);
  EXPECT_EQ(ledger.used(0, 2) + ledger.used(1, 2), 0);
  EXPECT_GT(std::count(early.begin(), early.end(), 0), 60);
}

TEST(PlannerPieces, RanksAndMicroBatchesReadTheSameRows) {
  const auto corpus = numbered_corpus({12, 5}, 200);
  Planner planner({.seed = 3, .global_batch = 8, .seq_len = 24, .pieces = true}, *corpus, kNone);
  for (int step = 0; step < 12; ++step) {
    const BatchPlan plan = planner.next({0.6, 0.4});
    std::vector<std::vector<int32_t>> expected;
    for (const int ranks : {1, 2, 4}) {
      for (const int64_t micro_batch : {1, 3, 8}) {
        std::vector<std::vector<int32_t>> rows(8);
        for (int rank = 0; rank < ranks; ++rank) {
          const LoadedBatch part = build_batch(
              plan, *corpus,
              {.micro_batch = micro_batch, .seq_len = 24, .data_rank = rank, .data_ranks = ranks});
          size_t row = size_t(rank);
          for (const Batch& b : part.micro) {
            for (int64_t i = 0; i < b.num_sequences; ++i, row += size_t(ranks)) {
              if (row < rows.size())
                rows[row].assign(b.tokens.begin() + 24 * i, b.tokens.begin() + 24 * (i + 1));
            }
          }
        }
        if (expected.empty()) expected = rows;
        ASSERT_EQ(rows, expected) << ranks << " ranks, micro-batches of " << micro_batch;
      }
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      const PlanSegment& g = plan.sequences[i].segments[0];
      EXPECT_EQ(expected[i][0], g.document * 1000 + g.begin);
    }
  }
}

}  // namespace
}  // namespace cadre::data
