// `cadre score`: sketches, losses and gradients of documents against plain computations, over ranks and restarts.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "data/tasks/task_corpus.h"
#include "tests/trainer/shard_fixture.h"
#include "trainer/run/document_rows.h"
#include "trainer/selection/gradient_model.h"
#include "trainer/selection/score_job.h"
#include "trainer/selection/sketch.h"

namespace cadre::trainer {
namespace {

using namespace testing;
using Columns = std::vector<std::vector<double>>;

std::vector<float> normals(size_t n, uint64_t seed) {
  const base::Philox random(seed);
  std::vector<float> x;
  for (size_t i = 0; i < n; ++i) x.push_back(float(random.normal(i)));
  return x;
}

TEST(Sketch, KeepsDotProductsWithoutBiasAndWithTheVarianceOfADenseProjection) {
  const size_t n = 300;
  const int64_t size = 64;
  const std::vector<float> x = normals(n, 1), y = normals(n, 2);
  double exact = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < n; ++i)
    exact += double(x[i] * y[i]), xx += double(x[i] * x[i]), yy += double(y[i] * y[i]);
  const int trials = 4000;
  double mean = 0, squares = 0;
  for (int seed = 0; seed < trials; ++seed) {
    const Sketcher sketcher(size, uint64_t(seed));
    std::vector<double> sx(size_t(size), 0.0), sy = sx;
    sketcher.add("w", 0, x, sx);
    sketcher.add("w", 0, y, sy);
    const double found = dot(sx, sy);
    mean += found / trials;
    squares += found * found / trials;
  }
  const double variance = squares - mean * mean, bound = (xx * yy + exact * exact) / double(size);
  EXPECT_NEAR(mean, exact, 4 * std::sqrt(bound / trials));
  EXPECT_LT(variance, 1.1 * bound);
  EXPECT_GT(variance, 0.8 * bound);
}

TEST(Sketch, DoesNotDependOnHowATensorIsCut) {
  const std::vector<float> x = normals(100, 3);
  const Sketcher sketcher(32, 5);
  std::vector<double> whole(32, 0.0), parts(32, 0.0), other(32, 0.0);
  sketcher.add("a", 0, x, whole);
  sketcher.add("a", 0, std::span(x).first(37), parts);
  sketcher.add("a", 37, std::span(x).subspan(37), parts);
  sketcher.add("b", 0, x, other);
  EXPECT_EQ(whole, parts);
  EXPECT_NE(whole, other) << "another tensor goes elsewhere";
}

ScoreOptions options_of(const std::string& kind, int64_t target_tokens = 4096, int64_t sketch = 8192) {
  ScoreOptions options;
  options.kind = kind;
  options.target_tokens = target_tokens;
  options.sketch = sketch;
  return options;
}

// Shards of the tiny corpora, and a run of some steps saved beside them.
class ScoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    run_steps(1, {"moe.balance=none"}, 12, folder_.path() / "run" / "checkpoints");
    manifest_ = tiny_manifest(folder_.path() / "data");
    add_split(manifest_, "train", 1, {20, 33});
    add_split(manifest_, "valid", 2, {24});
    save(manifest_);
  }
  // The same files as pairs.
  void make_pairs(const std::vector<int>& train, int valid) {
    manifest_.kind = data::SetKind::kPreference;
    manifest_.splits.clear();
    add_split(manifest_, "train", 3, train);
    add_split(manifest_, "valid", 4, {valid});
    save(manifest_);
  }

  ScoreSummary score(int ranks, const ScoreOptions& options, const std::string& name) {
    const ScoreJob job{.checkpoint = (folder_.path() / "run").string(),
                       .manifest = (manifest_.folder / "manifest.json").string(),
                       .name = name,
                       .options = options};
    ScoreSummary summary;
    std::mutex mutex;
    comm::run_threads(ranks, [&](comm::World& world) {
      const ScoreSummary own = score_documents(job, world, [](const std::string&) {});
      const std::lock_guard lock(mutex);
      summary = own;
    });
    return summary;
  }
  Columns values(const std::string& name) const {
    return data::load_scores(manifest_, manifest_.split("train"), name).values;
  }

  // What a kind of scores works with, for computing the same by hand.
  void with_inputs(const std::function<void(const ScoreInputs&, GradientModel&)>& body) {
    TensorReader reader(find_checkpoint(folder_.path() / "run"));
    RunConfig config = checkpoint_config(reader.index(), "test");
    const auto train = data::open_corpus(manifest_, "train", data::Verify::kAlways);
    const auto valid = data::open_corpus(manifest_, "valid", data::Verify::kAlways);
    ScoreOptions options;
    options.target_tokens = 100;
    comm::run_threads(1, [&](comm::World& world) {
      const ScoreInputs in{&options, &config, &reader, train.get(), valid.get(), "", &world};
      GradientModel model(in);
      body(in, model);
    });
  }
  static std::vector<double> gradient(GradientModel& model, const data::Corpus& corpus, int64_t d,
                                      bool moved) {
    const double tokens = GradientModel::tokens(corpus, d);
    model.differentiate(corpus, {d}, [&](int64_t) { return 1 / tokens; });
    std::vector<double> out;
    model.visit(moved, [&](const device::ParamRow&, int64_t, std::span<const float> v) {
      out.insert(out.end(), v.begin(), v.end());
    });
    return out;
  }

  TempFolder folder_;
  data::Manifest manifest_;
};

TEST_F(ScoreTest, LossIsThatOfEachDocumentAlone) {
  EXPECT_EQ(score(1, {}, "").shards, 2);
  const Columns found = values("loss");
  with_inputs([&](const ScoreInputs& in, GradientModel& model) {
    for (int64_t d = 0; d < in.corpus->num_documents(); ++d) {
      const DocumentRows rows(*in.corpus, {d}, 16, false);
      double nats = 0;
      for (int64_t i = 0; i < rows.micro_batches(1, 1); ++i) {
        const Batch batch = rows.micro_batch(i, 1, 0, 1);
        const auto logp = model.state().model.decoder.forward(batch, false);
        for (int64_t t = 0; t < batch.num_tokens(); ++t)
          nats -= batch.loss_mask[size_t(t)] != 0 ? double(logp[t]) : 0;
      }
      EXPECT_NEAR(found[0][size_t(d)], nats, 1e-5 * nats);
      EXPECT_EQ(found[1][size_t(d)], double(in.corpus->document(d).length - 1));
    }
  });
}

TEST_F(ScoreTest, OfPairsIncludeTheMargin) {
  make_pairs({20, 34}, 2);
  EXPECT_EQ(score(1, {}, "one").columns, (std::vector<std::string>{"nats", "tokens", "margin"}));
  score(3, {}, "three");
  const Columns found = values("one");
  EXPECT_EQ(values("three"), found);
  const auto corpus = data::open_corpus(manifest_, "train", data::Verify::kAlways);
  for (size_t d = 0; d < found[0].size(); d += 2) {
    EXPECT_EQ(found[1][d], double(corpus->document(int64_t(d)).length - 4));
    EXPECT_EQ(found[2][d], found[0][d + 1] - found[0][d]) << "log p of the chosen minus the rejected answer";
    EXPECT_EQ(found[2][d], found[2][d + 1]);
  }
}

// A pair is one unit whose loss is minus its margin, as what is scored and as a target.
TEST_F(ScoreTest, GradientsOfPairsAreThoseOfTheMargin) {
  make_pairs({20, 6}, 18);
  score(1, options_of("influence", 60), "influence");
  score(1, options_of("less", 60, 0), "less");
  const Columns influence = values("influence"), less = values("less");
  score(3, options_of("influence", 60), "three");
  EXPECT_EQ(values("three"), influence);
  with_inputs([&](const ScoreInputs& in, GradientModel& model) {
    EXPECT_EQ(GradientModel::sign(*in.corpus, 2), 1);
    EXPECT_EQ(GradientModel::sign(*in.corpus, 3), -1);  // the rejected answer's nats count against the loss
    // Of the answer's nats, summed.
    const auto answer = [&](const data::Corpus& corpus, int64_t d, bool moved) {
      std::vector<double> g = gradient(model, corpus, d, moved);
      const double scale = GradientModel::tokens(corpus, d) * (d % 2 == 1 ? -1 : 1);  // sign() is undone
      for (double& x : g) x *= scale;
      return g;
    };
    const auto pair = [&](const data::Corpus& corpus, int64_t d, bool moved) {
      std::vector<double> chosen = answer(corpus, d, moved);
      const std::vector<double> rejected = answer(corpus, d + 1, moved);
      for (size_t i = 0; i < chosen.size(); ++i) chosen[i] -= rejected[i];
      return chosen;
    };
    const auto domains = target_domains(in.targets, 60);
    ASSERT_EQ(domains.size(), 3u);
    for (size_t j = 0; j < domains.size(); ++j) {
      std::vector<std::vector<double>> targets;
      for (size_t at = 0; at < domains[j].documents.size(); at += 2) {
        ASSERT_EQ(domains[j].documents[at] % 2, 0);
        ASSERT_EQ(domains[j].documents[at] + 1, domains[j].documents[at + 1]);
        targets.push_back(pair(*in.targets, domains[j].documents[at], false));
      }
      double scale = 0;
      for (const double s : influence[j]) scale = std::max(scale, std::abs(s));
      EXPECT_GT(scale, 0);
      for (int64_t d = 0; d < in.corpus->num_documents(); d += 4) {
        const std::vector<double> moved = pair(*in.corpus, d, true);
        double sum = 0, mean = 0;
        for (const auto& v : targets) {
          sum += dot(v, moved) / domains[j].tokens;
          mean += dot(v, moved) / std::sqrt(dot(v, v) * dot(moved, moved)) / double(targets.size());
        }
        EXPECT_NEAR(influence[j][size_t(d)], sum, 1e-4 * scale);
        EXPECT_EQ(influence[j][size_t(d)], influence[j][size_t(d + 1)]);
        EXPECT_NEAR(less[j][size_t(d)], mean, 1e-5);
        EXPECT_EQ(less[j][size_t(d)], less[j][size_t(d + 1)]);
      }
    }
  });
}

// A random model and a reward that finds a digit or a letter now and then.
TEST(PassRates, AreMeanRewardsOfSamplesWhateverTheGroup) {
  TempFolder folder;
  const auto tokenizer = data::make_byte_tokenizer();
  data::save_tokenizer(*tokenizer, folder.path());
  const data::TaskSetConfig tasks{
      .task = "arithmetic", .levels = {1}, .problems = 8, .held_out = 1, .tokenizer = "bytes"};
  Dataset set;
  set.train = data::make_task_corpus(tasks, data::TaskSplit::kTrain, *tokenizer, data::SetKind::kInstruction);
  set.vocab = tokenizer->vocab_size();
  const auto prompts =
      data::make_task_corpus(tasks, data::TaskSplit::kTrain, *tokenizer, data::SetKind::kPrompts);
  ScoreOptions options = options_of("pass_rate");
  options.samples = 3;
  options.max_tokens = 8;
  comm::run_threads(1, [&](comm::World& world) {
    {
      TrainState state(tiny_run({"data.seq_len=64", "train.global_batch=1", "train.micro_batch=1"}), set,
                       world);
      CheckpointWriter writer(folder.path() / "checkpoints", state);
      writer.start();
      EXPECT_EQ(writer.finish().error, "");
    }
    TensorReader reader(find_checkpoint(folder.path()));
    const RunConfig config = checkpoint_config(reader.index(), "test");
    const auto rates = [&](const std::string& reward, int64_t begin, int64_t end) {
      options.reward = reward;
      const ScoreInputs in{
          &options, &config, &reader, prompts.get(), nullptr, folder.path() / tokenizer->file_name(), &world};
      return make_pass_rates(in)->score(begin, end)[0];
    };
    const std::string often = "{name: regex, pattern: '[0-9a-h]'}";
    const auto all = rates(often, 0, 8), part = rates(often, 5, 8);
    EXPECT_EQ(part, std::vector<double>(all.begin() + 5, all.end()));
    double sum = 0;
    for (const double rate : all) {
      EXPECT_NEAR(rate * 3, std::round(rate * 3), 1e-12);
      sum += rate;
    }
    EXPECT_GT(sum, 0);
    EXPECT_LT(sum, 8);
    EXPECT_EQ(rates("{name: regex, pattern: '(?!)'}", 0, 3), std::vector<double>(3, 0.0))
        << "matches nothing";
  });
}

TEST_F(ScoreTest, AreBitEqualForAnyRanksAndGoOnShardByShard) {
  for (const char* kind : {"loss", "influence", "less"}) {
    const ScoreOptions options = options_of(kind, 60, 256);
    const ScoreSummary one = score(1, options, "one"), three = score(3, options, "three");
    EXPECT_EQ(values("one"), values("three")) << kind;
    EXPECT_EQ(one.mean, three.mean);
    EXPECT_EQ(three.documents, 53);
    const Columns before = values("one");
    std::filesystem::remove(data::score_file(manifest_, "one", "train-0.h5"));
    const ScoreSummary rest = score(2, options, "one");
    EXPECT_EQ(rest.shards, 1);
    EXPECT_EQ(rest.skipped, 1);
    EXPECT_EQ(values("one"), before) << kind;
    EXPECT_EQ(score(1, options, "one").shards, 0);
    std::filesystem::remove_all(manifest_.folder / "scores");
  }
}

TEST_F(ScoreTest, OfAnotherModelOrOtherSettingsAreNotContinued) {
  score(1, {}, "ref");
  const auto message = [&](const ScoreOptions& options) {
    try {
      score(1, options, "ref");
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kUsage);
      return std::string(e.what());
    }
    return std::string("continued");
  };
  EXPECT_NE(message(options_of("influence")).find("another set of options"), std::string::npos);
  run_steps(1, {"moe.balance=none"}, 14, folder_.path() / "run" / "checkpoints");
  EXPECT_NE(message({}).find("another model; give another --name"), std::string::npos);
  EXPECT_NE(message(options_of("los")).find("known: loss, influence, less, pass_rate"), std::string::npos);
  EXPECT_THROW(score(1, options_of("pass_rate"), "rates"), Error) << "of text";
  EXPECT_FALSE(std::filesystem::exists(manifest_.folder / "scores" / "rates"));
}

TEST_F(ScoreTest, InfluenceIsTheGradientAlongTheDirection) {
  score(1, options_of("influence", 100), "influence");
  const Columns found = values("influence");
  with_inputs([&](const ScoreInputs& in, GradientModel& model) {
    const auto domains = target_domains(in.targets, 100);
    ASSERT_EQ(domains.size(), 3u);
    for (size_t j = 0; j < domains.size(); ++j) {
      model.differentiate(*in.targets, domains[j].documents, [&](int64_t) { return 1 / domains[j].tokens; });
      std::vector<double> direction;
      model.visit(true, [&](const device::ParamRow&, int64_t, std::span<const float> v) {
        direction.insert(direction.end(), v.begin(), v.end());
      });
      double scale = 0;
      for (const double s : found[j]) scale = std::max(scale, std::abs(s));
      for (int64_t d = 0; d < in.corpus->num_documents(); d += 5) {
        EXPECT_NEAR(found[j][size_t(d)], dot(direction, gradient(model, *in.corpus, d, false)), 1e-4 * scale);
      }
    }
  });
}

TEST_F(ScoreTest, LessIsTheMeanCosineAndSketchesComeClose) {
  score(1, options_of("less", 100, 0), "exact");
  score(1, options_of("less", 100, 4096), "sketched");
  const Columns exact = values("exact"), sketched = values("sketched");
  double error = 0, count = 0;
  with_inputs([&](const ScoreInputs& in, GradientModel& model) {
    const auto domains = target_domains(in.targets, 100);
    for (size_t j = 0; j < domains.size(); ++j) {
      std::vector<std::vector<double>> targets;
      for (const int64_t v : domains[j].documents) targets.push_back(gradient(model, *in.targets, v, false));
      for (int64_t d = 0; d < in.corpus->num_documents(); d += 7) {
        const auto z = gradient(model, *in.corpus, d, true);
        double mean = 0;
        for (const auto& v : targets)
          mean += dot(v, z) / std::sqrt(dot(v, v) * dot(z, z)) / double(targets.size());
        EXPECT_NEAR(exact[j][size_t(d)], mean, 1e-5);
      }
      for (size_t d = 0; d < exact[j].size(); ++d) {
        error += std::pow(exact[j][d] - sketched[j][d], 2);
        ++count;
      }
    }
  });
  // The mean of unit vectors has at most length 1: a deviation of 1 / sqrt(4096), and as much again for the lengths.
  EXPECT_LT(std::sqrt(error / count), std::sqrt(2.0 / 4096));
  EXPECT_GT(error, 0);
}

}  // namespace
}  // namespace cadre::trainer
