// Curricula: the curve that uses every document once, and what the planner makes of it.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "data/curricula/perplexity.h"
#include "data/curricula/s_curve.h"
#include "data/curricula/staged_curriculum.h"
#include "data/curriculum.h"
#include "data/planner.h"
#include "tests/data/feed_fixtures.h"

namespace cadre::data {
namespace {

TEST(SCurve, StartsAndEndsAtItsSharesAndHasTheMeanThatUsesEverythingOnce) {
  for (const double c : {5.0, 10.0, 20.0}) {
    for (const double q : {0.27, 0.3, 0.5, 0.62, 0.7, 0.73}) {
      const SCurveConfig config{0.2, 0.8, c};
      const double m = 1 / c - 1 / std::expm1(c);
      if (q <= 0.2 + 0.6 * m || q >= 0.8 - 0.6 * m) {
        EXPECT_THROW(SCurve(config, q), Error) << c << ", " << q;
        continue;
      }
      const SCurve curve(config, q);
      EXPECT_NEAR(curve.at(0), 0.2, 1e-12);
      EXPECT_NEAR(curve.at(1), 0.8, 1e-12);
      double mean = 0, before = 0;
      for (int i = 0; i < 20000; ++i) {
        const double p = curve.at((i + 0.5) / 20000);
        EXPECT_GE(p, before - 1e-12);
        before = p;
        mean += p / 20000;
      }
      EXPECT_NEAR(mean, q, 1e-7) << c << ", " << q;
      // The mirrored share has the mirrored curve.
      const SCurve mirror(config, 1 - q);
      EXPECT_NEAR(mirror.at(0.3), 1 - curve.at(0.7), 1e-9);
    }
  }
}

std::unique_ptr<Curriculum> make(const std::string& yaml, const Corpus* corpus) {
  return make_curriculum(base::parse_run_text("curriculum: " + yaml, "test.yaml", {}).section("curriculum"),
                         corpus);
}

// Over one epoch every document comes once, short ones early, and each batch holds every domain.
TEST(LengthCurriculum, OrdersWithinDomainsAndUsesEveryTokenOnce) {
  const auto corpus = testing::numbered_corpus({300, 200, 250}, 40);
  const MixerContext sizes = mixer_context(*corpus, 1);
  int64_t total = 0;
  for (const int64_t n : sizes.domain_tokens) total += n;
  std::vector<double> natural;
  for (const int64_t n : sizes.domain_tokens) natural.push_back(double(n) / double(total));
  for (const bool reversed : {false, true}) {
    const auto curriculum = make(fmt::format("{{name: length, reversed: {}}}", reversed), corpus.get());
    const int64_t batch = 12, length = 16, steps = total / (batch * length);
    Planner planner({.seed = 3, .global_batch = batch, .seq_len = length, .total_tokens = total}, *corpus,
                    *curriculum);
    std::map<std::pair<int64_t, int64_t>, int> used;  // (document, position)
    double early = 0, early_tokens = 0, late = 0, late_tokens = 0;
    for (int64_t step = 0; step < steps; ++step) {
      const BatchPlan plan = planner.next(natural);
      for (const int64_t n : plan.domain_sequences) EXPECT_GT(n, 0);
      for (const PlanSequence& sequence : plan.sequences) {
        for (const PlanSegment& s : sequence.segments) {
          for (int64_t i = 0; i < s.count; ++i) ++used[{s.document, s.begin + i}];
          const double size = double(corpus->document(s.document).length * s.count);
          if (step < steps / 4) early += size, early_tokens += double(s.count);
          if (step >= steps - steps / 4) late += size, late_tokens += double(s.count);
        }
      }
    }
    int64_t again = 0;
    for (const auto& [place, times] : used) again += times - 1;
    EXPECT_LE(again, 6 * 2 * length) << "of " << total << " tokens";  // a sequence or two a stream at the end
    const double change = late / late_tokens - early / early_tokens;
    EXPECT_GT(reversed ? -change : change, 4);
  }
}

TEST(LengthCurriculum, RefusesSharesThatCannotUseEverythingOnce) {
  const auto corpus = testing::numbered_corpus({50, 50}, 40);
  EXPECT_THROW(make("{name: length, cut: 0.9}", corpus.get()), Error);
  EXPECT_THROW(make("{name: length, low: 0.8, high: 0.2}", corpus.get()), Error);
  EXPECT_THROW(make("{name: length, cut: 0.9}", nullptr), Error) << "found before there is data";
}

// Stages by buckets: the sums that use every document once, and the order that was asked for.
TEST(StagedShares, KeepEveryBucketsTextAndEveryStagesLength) {
  const std::vector<double> size = {0.4, 0.1, 0, 0.5}, time = {0, 0.5, 0.5, 1};
  const auto table = staged_shares(size, time, 3, 20);
  for (size_t b = 0; b < size.size(); ++b) {
    double row = 0, mean_time = 0;
    for (size_t s = 0; s < 20; ++s) {
      row += table[b][s];
      mean_time += table[b][s] * (double(s) + 0.5) / 20;
      if (size[b] > 0) {
        EXPECT_GT(table[b][s], 0);
      }
    }
    EXPECT_NEAR(row, size[b], 1e-13);
    if (b == 0) {
      EXPECT_LT(mean_time / row, 0.4);
    }
    if (b == 3) {
      EXPECT_GT(mean_time / row, 0.6);
    }
  }
  for (size_t s = 0; s < 20; ++s) {
    double column = 0;
    for (const auto& row : table) column += row[s];
    EXPECT_NEAR(column, 1.0 / 20, 1e-14);
  }
  // Two odds ratios in a row: what Sinkhorn's factors cannot change.
  const double a = table[0][3] * table[3][9] / (table[0][9] * table[3][3]);
  const double t3 = 3.5 / 20, t9 = 9.5 / 20;
  EXPECT_NEAR(std::log(a), -3 * (t3 * t3 - t9 * t9) + 3 * ((1 - t3) * (1 - t3) - (1 - t9) * (1 - t9)), 1e-9);
}

// A corpus whose documents have losses of two references: the weak one's excess grows with the document's number.
std::unique_ptr<Corpus> scored_corpus(const std::vector<int>& sizes, std::vector<double>* difference) {
  const auto plain = testing::numbered_corpus(sizes, 90);
  std::vector<MemoryDocument> documents;
  Scores weak{{"nats", "tokens"}, {{}, {}}}, strong = weak;
  const base::Philox random(5);
  for (int64_t d = 0; d < plain->num_documents(); ++d) {
    const DocumentInfo info = plain->document(d);
    documents.push_back({info.domain, std::vector<int32_t>(size_t(info.length), 1), 10});
    const double tokens = double(info.length - 1), gap = random.uniform(uint64_t(d));
    strong.values[0].push_back(tokens * (2 + random.uniform(uint64_t(d), 1)));
    weak.values[0].push_back(strong.values[0].back() + tokens * gap);
    for (Scores* s : {&weak, &strong}) s->values[1].push_back(tokens);
    if (difference != nullptr) difference->push_back(1 - std::exp(-gap));
  }
  return make_memory_corpus({"a", "b"}, std::move(documents), SetKind::kText,
                            {{"weak", weak}, {"strong", strong}});
}

TEST(Perplexity, DifferenceIsThatOfPerplexitiesAndShortTextHasNone) {
  std::vector<double> expected;
  const auto corpus = scored_corpus({40, 30}, &expected);
  const PerplexityScores s = perplexity_scores({}, *corpus);
  const Scores weak = corpus->scores("weak"), strong = corpus->scores("strong");
  int ranked = 0;
  for (size_t d = 0; d < expected.size(); ++d) {
    const double tokens = weak.values[1][d];
    EXPECT_EQ(std::isnan(s.difference[d]), tokens < 64);
    if (tokens < 64) continue;
    ++ranked;
    const double ppl_weak = std::exp(weak.values[0][d] / tokens),
                 ppl_strong = std::exp(strong.values[0][d] / tokens);
    EXPECT_NEAR(s.difference[d], (ppl_weak - ppl_strong) / ppl_weak, 1e-12);
    EXPECT_NEAR(s.difference[d], expected[d], 1e-12);
    EXPECT_NEAR(s.loss[d], strong.values[0][d] / tokens, 1e-12);
  }
  EXPECT_GT(ranked, 5);
}

// Mean difference of early and late text, and how often any position comes, over one epoch of a corpus.
struct Walk {
  double early = 0, late = 0;
  int64_t again = 0;
};
Walk walk(const Corpus& corpus, const Curriculum& curriculum, const std::vector<double>& score,
          int64_t seq_len) {
  const MixerContext sizes = mixer_context(corpus, 1);
  int64_t total = 0;
  for (const int64_t n : sizes.domain_tokens) total += n;
  std::vector<double> natural;
  for (const int64_t n : sizes.domain_tokens) natural.push_back(double(n) / double(total));
  const int64_t batch = 10, steps = total / (batch * seq_len);
  Planner planner({.seed = 3, .global_batch = batch, .seq_len = seq_len, .total_tokens = total}, corpus,
                  curriculum);
  std::map<std::pair<int64_t, int64_t>, int64_t> used;
  Walk out;
  double early = 0, late = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const BatchPlan plan = planner.next(natural);
    for (const int64_t n : plan.domain_sequences) EXPECT_GT(n, 0) << "every batch holds every domain";
    for (const PlanSequence& sequence : plan.sequences) {
      for (const PlanSegment& s : sequence.segments) {
        for (int64_t i = 0; i < s.count; ++i) out.again += ++used[{s.document, s.begin + i}] > 1;
        if (std::isnan(score[size_t(s.document)])) continue;
        const double value = score[size_t(s.document)] * double(s.count);
        if (step < steps / 4) out.early += value, early += double(s.count);
        if (step >= steps - steps / 4) out.late += value, late += double(s.count);
      }
    }
  }
  out.early /= early;
  out.late /= late;
  return out;
}

TEST(PdpcAndFrame, OrderWithinDomainsAndUseEveryTokenOnce) {
  const auto corpus = scored_corpus({300, 200}, nullptr);
  const PerplexityScores s = perplexity_scores({}, *corpus);
  const int64_t seq_len = 20;
  for (const char* name : {"pdpc", "frame"}) {
    const auto forward = make(fmt::format("{{name: {}}}", name), corpus.get());
    const auto reversed = make(fmt::format("{{name: {}, reversed: true}}", name), corpus.get());
    const Walk w = walk(*corpus, *forward, s.difference, seq_len),
               r = walk(*corpus, *reversed, s.difference, seq_len);
    EXPECT_GT(w.late - w.early, 0.08) << name;
    EXPECT_LT(r.late - r.early, -0.08) << name;
    EXPECT_LE(w.again, forward->num_buckets() * 2 * 2 * seq_len) << name;
    if (std::string(name) == "frame") {
      EXPECT_LT(walk(*corpus, *forward, s.loss, seq_len).late,
                walk(*corpus, *forward, s.loss, seq_len).early - 0.05)
          << "high perplexity first";
    }
  }
}

// The planner's promise holds with buckets: nothing but seed and state decides, and a resumed plan goes on the same.
TEST(ScoreCurriculum, PlansTheSameAfterARestart) {
  auto corpus = scored_corpus({60, 50}, nullptr);
  const auto curriculum = make("{name: score, scores: weak, column: nats}", corpus.get());
  const PlannerConfig config{.seed = 9, .global_batch = 6, .seq_len = 12, .total_tokens = 3000};
  Planner whole(config, *corpus, *curriculum), first(config, *corpus, *curriculum),
      second(config, *corpus, *curriculum);
  for (int i = 0; i < 40; ++i) {
    const std::vector<double> w = {0.3 + 0.01 * i, 0.7 - 0.01 * i};
    const BatchPlan expected = whole.next(w);
    if (i == 17) second.load(nlohmann::json::parse(first.save().dump()));
    const BatchPlan plan = (i < 17 ? first : second).next(w);
    ASSERT_EQ(plan.sequences.size(), expected.sequences.size());
    for (size_t s = 0; s < plan.sequences.size(); ++s) {
      ASSERT_EQ(plan.sequences[s].segments.front().document, expected.sequences[s].segments.front().document);
      ASSERT_EQ(plan.sequences[s].segments.front().begin, expected.sequences[s].segments.front().begin);
    }
  }
}

TEST(SplitCurriculum, ADomainOfOneDocumentHasNoOrderAndIsNoError) {
  const auto corpus = testing::numbered_corpus({60, 1}, 40);
  const auto c = make("length", corpus.get());
  EXPECT_EQ(c->quota(0.1, 1), c->quota(0.9, 1));
  EXPECT_NE(c->quota(0.1, 0), c->quota(0.9, 0));
}

}  // namespace
}  // namespace cadre::data
