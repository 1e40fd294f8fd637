// Supervised fine-tuning and preference training: what counts in the loss, whatever the layout.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "data/selector.h"
#include "tests/trainer/post_training_fixture.h"
#include "trainer/run/evaluate.h"

namespace cadre::trainer {
namespace {

using namespace testing;

std::vector<StepReport> fine_tune(int ranks, const std::vector<std::string>& overrides) {
  const Dataset set = conversations();
  return train_on(
      set, [&] { return tiny_run(overrides); }, ranks, 6);
}

TEST(FineTuning, CountsTheAnswersAloneOnEveryLayout) {
  const auto one = fine_tune(1, {"moe.balance=none"});
  for (const StepReport& r : one) {
    EXPECT_LT(r.counts.trained_tokens, r.counts.real_tokens * 2 / 3);
    EXPECT_GT(r.counts.trained_tokens, 0);
    double tokens = 0;
    for (const double t : r.domain_tokens) tokens += t;
    EXPECT_EQ(tokens, double(r.counts.trained_tokens));
  }
  expect_same_curve(losses(fine_tune(2, {"moe.balance=none"})), losses(one), "two ranks");
  expect_same_curve(losses(fine_tune(2, {"moe.balance=none", "mesh.ep=2", "train.micro_batch=1"})),
                    losses(one), "two ranks with experts apart");
  expect_same_curve(norms(fine_tune(1, {"moe.balance=none", "train.micro_batch=8"})), norms(one),
                    "one micro-batch");
}

// The loss of the first step is the mean over the answers' tokens of the model's own log-probabilities.
TEST(FineTuning, LossIsTheMeanOverTheAnswers) {
  const Dataset set = conversations();
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(
        tiny_run({"train.global_batch=2", "train.micro_batch=2", "data.pack=false", "data.seq_len=60"}), set,
        world);
    const StepReport report = train_step(state, {});
    TrainState fresh(
        tiny_run({"train.global_batch=2", "train.micro_batch=2", "data.pack=false", "data.seq_len=60"}), set,
        world);
    const data::LoadedBatch batch = fresh.feed.next(fresh.progress);
    Batch all = batch.micro.at(0);
    all.loss_mask.assign(all.loss_mask.size(), 1.0f);
    const auto logp = fresh.model.decoder.forward(all, false);
    double sum = 0, n = 0;
    for (size_t i = 0; i < all.loss_mask.size(); ++i) {
      if (batch.micro[0].loss_mask[i] == 0) continue;
      const int64_t place = all.position[i] + 1;
      EXPECT_EQ(place / 5 % 3, 1) << "position " << i;  // the target's own place in its document
      sum -= logp[int64_t(i)];
      n += 1;
    }
    EXPECT_GT(n, 10);
    EXPECT_NEAR(report.loss, sum / n, 1e-5);
  });
}

std::vector<StepReport> prefer(int ranks, std::vector<std::string> overrides, uint64_t until,
                               const std::filesystem::path& folder = {}) {
  overrides.insert(overrides.begin(), kPairs.begin(), kPairs.end());
  const Dataset set = preferences();
  return train_on(
      set, [&] { return tiny_run(overrides); }, ranks, until, folder);
}

double metric(const StepReport& report, const std::string& name) {
  for (const auto& [key, value] : report.objective) {
    if (key == name) return value;
  }
  ADD_FAILURE() << "no metric " << name;
  return 0;
}

TEST(PreferenceTraining, StartsAtLnTwoAndLearnsToPrefer) {
  const auto reports = prefer(1, {"optim.lr=1.0e-2", "objective.beta=0.5", "train.steps=40"}, 40);
  EXPECT_NEAR(reports[0].loss, std::log(2.0), 1e-6);
  EXPECT_EQ(metric(reports[0], "pairs"), 8);
  EXPECT_LT(reports.back().loss, 0.4);
  EXPECT_GT(metric(reports.back(), "accuracy"), 0.8);
  EXPECT_GT(metric(reports.back(), "reward_margin_mean"), 0.5);
}

TEST(PreferenceTraining, IsTheSameOnEveryLayout) {
  const auto one = prefer(1, {}, 6);
  expect_same_curve(losses(prefer(2, {"train.micro_batch=1"}, 6)), losses(one), "two ranks");
  expect_same_curve(norms(prefer(2, {"mesh.ep=2"}, 6)), norms(one), "two ranks with experts apart", 1e-3);
  EXPECT_NEAR(metric(prefer(2, {}, 6).back(), "reward_margin_mean"), metric(one.back(), "reward_margin_mean"),
              1e-5);
}

TEST(PreferenceTraining, ResumesWithTheReferenceItStartedWith) {
  const auto straight = losses(prefer(2, {}, 8));
  TempFolder folder;
  std::vector<double> resumed;
  for (const uint64_t until : {4u, 8u}) {
    for (const double loss : losses(prefer(2, {}, until, folder.path()))) resumed.push_back(loss);
  }
  EXPECT_EQ(resumed, straight);
}

// One answer of each pair, 0 the chosen and 1 the rejected one, as conversations.
std::unique_ptr<data::Corpus> answers(const data::Corpus& pairs, int64_t which) {
  std::vector<data::MemoryDocument> all;
  for (int64_t d = which; d < pairs.num_documents(); d += 2) {
    const auto length = size_t(pairs.document(d).length);
    data::MemoryDocument document{pairs.document(d).domain, std::vector<int32_t>(length), 0};
    document.loss_mask.resize(length);
    pairs.read(d, 0, document.tokens);
    pairs.read_mask(d, 0, document.loss_mask);
    all.push_back(std::move(document));
  }
  return data::make_memory_corpus({"alpha", "beta", "gamma"}, std::move(all), data::SetKind::kInstruction);
}

std::vector<double> target_gradient(std::unique_ptr<data::Corpus> target) {
  Dataset set = preferences();
  set.target = std::move(target);
  std::vector<std::string> overrides = kPairs;
  overrides.push_back("influence={period: 1, tokens_per_domain: 1000000, tokens_per_probe: 0}");
  std::vector<double> all;
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(tiny_run(overrides), set, world);
    state.probe->begin_step(true);
    for (int g = 0; g < device::kNumGroups; ++g) {
      for (const comm::Piece& piece : state.optimizer_context.pieces[g]) {
        const auto slice = state.probe->gradient(0, device::Group(g)).rows(piece.state_offset, piece.count);
        all.insert(all.end(), slice.data(), slice.data() + slice.size());
      }
    }
  });
  return all;
}

// Lengths are equal, so the mean over both answers' tokens is half of the difference of the means.
TEST(PreferenceTraining, InfluenceIsOnTheMarginOfHeldOutPairs) {
  const Dataset set = preferences();
  const auto chosen = target_gradient(answers(*set.train, 0)),
             rejected = target_gradient(answers(*set.train, 1)),
             margin = target_gradient(preferences().train);
  double scale = 0;
  for (const double x : chosen) scale = std::max(scale, std::abs(x));
  ASSERT_EQ(margin.size(), chosen.size());
  for (size_t i = 0; i < margin.size(); ++i)
    ASSERT_NEAR(margin[i], (chosen[i] - rejected[i]) / 2, 1e-5 * scale) << "element " << i;
}

TEST(PreferenceTraining, MixersLearnFromPairsTheSameOnEveryLayout) {
  const std::vector<std::string> overrides = {
      "mixer={name: gim, period: 2, gate: false, max_epochs: 100}",
      "influence={micro_batches: 4, tokens_per_domain: 100, tokens_per_probe: 0}"};
  const auto learn = [&](int ranks) {
    Dataset set = preferences();
    set.target = preferences().train;
    std::vector<std::string> all = kPairs;
    all.insert(all.end(), overrides.begin(), overrides.end());
    std::vector<double> weights;
    comm::run_threads(ranks, [&](comm::World& world) {
      TrainState state(tiny_run(all), set, world);
      for (int step = 0; step < 8; ++step) train_step(state, {});
      if (world.rank() == 0) weights = state.mixer->weights(state.progress);
    });
    return weights;
  };
  const auto one = learn(1), two = learn(2);
  double moved = 0;
  for (size_t k = 0; k < one.size(); ++k) {
    EXPECT_NEAR(two[k], one[k], 1e-4);
    moved += std::abs(one[k] - 1.0 / 3);
  }
  EXPECT_GT(moved, 1e-3);
}

// configs/dpo-margin.yaml in small: the pairs with the largest margins are left out, the rest comes in falling order.
TEST(PreferenceTraining, SelectorAndCurriculumActOnPairsByTheirMargin) {
  const Dataset plain = preferences();
  data::Scores scores;
  scores.columns = {"margin"};
  scores.values.resize(1);
  std::vector<data::MemoryDocument> all;
  const base::Philox random(5);
  for (int64_t d = 0; d < plain.train->num_documents(); ++d) {
    const auto length = size_t(plain.train->document(d).length);
    data::MemoryDocument document{plain.train->document(d).domain, std::vector<int32_t>(length), 0};
    document.loss_mask.resize(length);
    plain.train->read(d, 0, document.tokens);
    plain.train->read_mask(d, 0, document.loss_mask);
    all.push_back(std::move(document));
    scores.values[0].push_back(random.normal(uint64_t(d / 2)));
  }
  std::vector<std::string> overrides = kPairs;
  overrides.push_back(
      "selector={name: gumbel, scores: m, column: margin, lowest: true, keep: 0.8, temperature: 0}");
  overrides.push_back("curriculum={name: score, scores: m, column: margin, reversed: true}");
  overrides.push_back("train.steps=6");
  const RunConfig run = tiny_run(overrides);
  Dataset set;
  set.vocab = kVocab;
  set.train = data::select_documents(
      *data::make_selector(kind(run, run.selector, "selector")),
      data::make_memory_corpus({"alpha", "beta", "gamma"}, std::move(all), data::SetKind::kPreference,
                               std::map<std::string, data::Scores>{{"m", scores}}),
      run.seed);
  EXPECT_NEAR(double(set.train->num_documents()), 0.8 * double(plain.train->num_documents()), 6);
  const std::vector<double> margin = set.train->scores("m").values[0];
  EXPECT_LT(*std::max_element(margin.begin(), margin.end()),
            *std::max_element(scores.values[0].begin(), scores.values[0].end()));
  std::vector<double> mean;  // by step
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(tiny_run(overrides), set, world);
    state.on_batch = [&](const data::LoadedBatch& batch) {
      std::set<int32_t> domains;
      double sum = 0;
      for (const int64_t pair : batch.documents) {
        domains.insert(set.train->document(2 * pair).domain);
        sum += margin[size_t(2 * pair)];
      }
      EXPECT_EQ(domains.size(), 3u) << "every batch holds every domain";
      mean.push_back(sum / double(batch.documents.size()));
    };
    for (int step = 0; step < 6; ++step) EXPECT_TRUE(std::isfinite(train_step(state, {}).loss));
  });
  ASSERT_EQ(mean.size(), 6u);
  EXPECT_GT(mean[0] + mean[1], mean[4] + mean[5] + 0.2);
}

TEST(PostTraining, SaysWhichDataAnObjectiveNeeds) {
  const Dataset pairs = preferences(), text = tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    EXPECT_THROW(TrainState(tiny_run({"objective=dpo"}), text, world), Error);
    EXPECT_THROW(TrainState(tiny_run({"data.pack=false", "data.seq_len=40"}), pairs, world), Error);
    EXPECT_THROW(TrainState(tiny_run({"objective=dpo", "data.seq_len=40"}), pairs, world), Error);
    EXPECT_THROW(TrainState(tiny_run({"objective=dpo", "data.pack=false"}), pairs, world), Error);
  });
  EXPECT_THROW(tiny_run({"objective=vespo"}), Error);
}

}  // namespace
}  // namespace cadre::trainer
