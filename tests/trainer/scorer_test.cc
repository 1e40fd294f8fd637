// Evaluation tasks: log-likelihoods and answers against the decoder asked directly.
#include <cmath>

#include "tests/trainer/task_fixture.h"
#include "trainer/evaluation/run_task.h"

namespace cadre::trainer {
namespace {

using testing::kChoice;
using testing::TaskFolder;

constexpr int kBytesVocab = 258;

// A model of bytes with sequences of 16 tokens, the same on every rank.
struct ByteModel {
  explicit ByteModel(comm::World& world, int64_t micro_batch = 4)
      : model(config(), world, micro_batch, false) {}
  static RunConfig config() {
    RunConfig c = testing::tiny_run({"model.init_std=0.4"});
    set_vocab(c, kBytesVocab);
    return c;
  }
  // log p of each next token, by the cache, one token at a time.
  double logp(const std::vector<int32_t>& tokens, size_t known) {
    auto cache = model.decoder.make_cache(int64_t(tokens.size()));
    double sum = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto logits = model.decoder.extend(*cache, {tokens[i]});
      double total = 0;
      for (const float x : logits) total += std::exp(double(x));
      if (i + 1 >= known) sum += double(logits[tokens[i + 1]]) - std::log(total);
    }
    return sum;
  }
  ModelState model;
  std::unique_ptr<data::Tokenizer> tokenizer = data::make_byte_tokenizer();
};

std::vector<int32_t> ids(const std::string& text, bool start = true) {
  std::vector<int32_t> all;
  if (start) all.push_back(256);
  for (const char c : text) all.push_back(uint8_t(c));
  return all;
}

TEST(Scorer, CutsPairsWhereTheContextsOwnTokensEnd) {
  comm::run_threads(1, [&](comm::World& world) {
    ByteModel m(world);
    const Scorer scorer(m.model, *m.tokenizer, 4, true), bare(m.model, *m.tokenizer, 4, false);
    ScoreRequest pair = scorer.pair("ab  ", "c");
    EXPECT_EQ(pair.tokens, ids("ab  c"));
    EXPECT_EQ(pair.scored, 3) << "blanks go to the continuation";
    EXPECT_EQ(bare.pair("ab", " c").tokens, ids("ab c", false));
    EXPECT_EQ(bare.pair("", "c").tokens, ids("c")) << "an empty context is the start of a document";
    pair = scorer.pair("0123456789012345678", "xyz");
    EXPECT_EQ(pair.tokens, ids("56789012345678xyz", false)) << "17 tokens: 16 inputs";
    EXPECT_EQ(pair.scored, 3);
    EXPECT_THROW(scorer.pair("a", ""), Error);
    EXPECT_THROW(scorer.pair("a", std::string(17, 'x')), Error);
  });
}

// By hand, for 4 inputs: the harness's windows, and some that overlap more.
TEST(Scorer, RollingWindowsPredictEveryTokenOnce) {
  const auto text = [](const std::vector<Window>& windows) {
    std::string all;
    for (const Window& w : windows) all += fmt::format("{}:{}-{} ", w.begin, w.first, w.last);
    return all;
  };
  EXPECT_EQ(text(rolling_windows(10, 4, 1)), "0:0-4 4:4-8 6:8-10 ");
  EXPECT_EQ(text(rolling_windows(4, 4, 1)), "0:0-4 ");
  EXPECT_EQ(text(rolling_windows(3, 4, 1)), "0:0-3 ");
  EXPECT_EQ(text(rolling_windows(9, 4, 3)), "0:0-4 2:4-6 4:6-8 5:8-9 ");
  EXPECT_EQ(text(rolling_windows(0, 4, 1)), "");
  for (int64_t n = 1; n < 40; ++n) {
    for (int64_t context = 1; context <= 5; ++context) {
      int64_t done = 0;
      for (const Window& w : rolling_windows(n, 5, context)) {
        EXPECT_EQ(w.first, done);
        EXPECT_LE(w.last - w.begin, 5);
        if (w.first > 0) {
          EXPECT_GE(w.first - w.begin + 1, context);
        }
        done = w.last;
      }
      EXPECT_EQ(done, n);
    }
  }
}

TEST(Scorer, ScoresEqualThoseOfTheDecoderOnAnyNumberOfRanks) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"a", "b"}, {"the first", " one"}, {"", "xyz"}, {"much longer than sixteen", "?"}, {"q", "0123456789"},
      {"z ", "y"}};
  std::vector<Score> first, first_greedy;
  std::vector<std::string> answers;
  for (const int ranks : {1, 2, 4}) {
    comm::run_threads(ranks, [&](comm::World& world) {
      ByteModel m(world, 2);
      Scorer scorer(m.model, *m.tokenizer, 2, true);
      std::vector<ScoreRequest> requests;
      for (const auto& [context, continuation] : pairs)
        requests.push_back(scorer.pair(context, continuation));
      const std::vector<Score> scores = scorer.score(requests), greedy = scorer.score_greedy(requests);
      const std::vector<std::string> texts = scorer.generate({"ab", "c", "", "0123456789"}, {"\n"}, 5);
      if (world.rank() != 0) return;
      if (ranks == 1) {
        first = scores;
        first_greedy = greedy;
        answers = texts;
        for (size_t i = 0; i < requests.size(); ++i) {
          const auto& tokens = requests[i].tokens;
          const double expected = m.logp(tokens, tokens.size() - size_t(requests[i].scored));
          EXPECT_NEAR(scores[i].logp, expected, 1e-4) << pairs[i].first;
          EXPECT_NEAR(greedy[i].logp, expected, 1e-4) << pairs[i].first;
        }
      }
      for (size_t i = 0; i < scores.size(); ++i) {
        EXPECT_EQ(scores[i].logp, first[i].logp) << ranks;
        EXPECT_EQ(greedy[i].logp, first_greedy[i].logp) << ranks;
      }
      EXPECT_EQ(texts, answers);
    });
  }
}

TEST(Scorer, GreedyIsWhatTheModelWouldHaveSaid) {
  comm::run_threads(1, [&](comm::World& world) {
    ByteModel m(world);
    Scorer scorer(m.model, *m.tokenizer, 4, true);
    const std::string said = scorer.generate({"ab"}, {}, 4)[0];
    ASSERT_EQ(said.size(), 4u);
    std::string other = said;
    other[3] = char(other[3] ^ 1);
    const auto scores = scorer.score_greedy({scorer.pair("ab", said), scorer.pair("ab", other)});
    EXPECT_TRUE(scores[0].greedy);
    EXPECT_FALSE(scores[1].greedy);
    EXPECT_EQ(scorer.generate({"ab"}, {said.substr(1, 2)}, 4)[0],
              said.substr(0, said.find(said.substr(1, 2))));
    EXPECT_THROW(scorer.generate({"ab"}, {}, 16), Error);
  });
}

TEST(RunTask, MultipleChoiceByHand) {
  const TaskFolder f = testing::choice_folder();
  const TaskConfig task = f.task(kChoice);
  std::vector<double> first;
  for (const int ranks : {1, 3}) {
    comm::run_threads(ranks, [&](comm::World& world) {
      ByteModel m(world);
      Scorer scorer(m.model, *m.tokenizer, 4, true);
      const TaskResult result = run_task(task, scorer, {});
      std::vector<double> found;
      for (const TaskMetric& metric : result.metrics) found.push_back(metric.estimate.value);
      if (world.rank() != 0) return;
      if (ranks == 1) first = found;
      EXPECT_EQ(found, first);
      double right = 0, right_by_length = 0;
      const std::vector<std::string> choices = {"1", "22", "{{x}}"}, contexts = {"1+0 =", "9  =", "a ="};
      for (size_t d = 0; d < 3; ++d) {
        std::vector<double> plain, by_length;
        for (const std::string& choice : choices) {
          const auto tokens = ids(contexts[d] + " " + choice);
          plain.push_back(m.logp(tokens, ids(contexts[d]).size()));
          by_length.push_back(plain.back() / double(choice.size()));
        }
        right += best_choice(plain) == int64_t(d) ? 1 : 0;
        right_by_length += best_choice(by_length) == int64_t(d) ? 1 : 0;
      }
      EXPECT_EQ(found[0], right / 3);
      EXPECT_EQ(found[1], right_by_length / 3);
      EXPECT_EQ(found[2], right_by_length / 3);
      const auto json = results_json({result});
      EXPECT_EQ(json["results"]["sums"]["acc,none"], right / 3);
      EXPECT_EQ(json["n-samples"]["sums"]["effective"], 3);
    });
  }
}

TEST(RunTask, RollingPerplexityAndLogLikelihoodByHand) {
  TaskFolder f;
  const std::string one = "Two words and more than a window.", two = "x";
  f.write("d.jsonl", "{\"t\": \"" + one + "\"}\n{\"t\": \"" + two + "\"}\n");
  const std::string head =
      "task: r\ndataset_path: json\ndataset_kwargs: {data_files: {test: d.jsonl}}\ntest_split: test\n";
  comm::run_threads(1, [&](comm::World& world) {
    ByteModel m(world);
    Scorer scorer(m.model, *m.tokenizer, 4, true);
    const auto all = ids(one);
    const auto part = [&](size_t begin, size_t first, size_t last) {
      return m.logp({all.begin() + ptrdiff_t(begin), all.begin() + ptrdiff_t(last) + 1}, first + 1 - begin);
    };
    ASSERT_EQ(one.size(), 33u);
    const double sum = part(0, 0, 16) + part(16, 16, 32) + part(17, 32, 33) + m.logp(ids(two), 1);
    const TaskResult rolling = run_task(
        f.task(head + "output_type: loglikelihood_rolling\ndoc_to_text: \"\"\ndoc_to_target: \"{{t}}\"\n"),
        scorer, {});
    EXPECT_NEAR(rolling.metrics[0].estimate.value, std::exp(-sum / 8), 1e-4 * std::exp(-sum / 8))
        << "7 words and 1";
    EXPECT_NEAR(rolling.metrics[1].estimate.value, std::exp(-sum / 34), 1e-3);
    EXPECT_NEAR(rolling.metrics[2].estimate.value, -sum / 34 / std::log(2.0), 1e-4);
    const TaskResult target = run_task(
        f.task(head +
               "output_type: loglikelihood\ndoc_to_text: \"{{ t[0] }}\"\ndoc_to_target: \"{{ t[4:9] }}\"\n"),
        scorer, {.limit = 1});
    EXPECT_EQ(target.documents, 1);
    EXPECT_NEAR(target.metrics[0].estimate.value, std::exp(-m.logp(ids("Twords"), 2)),
                1e-3 * target.metrics[0].estimate.value);
  });
}

}  // namespace
}  // namespace cadre::trainer
