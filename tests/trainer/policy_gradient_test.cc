// The gradient of an update on samples, against a naive one: the objective is computed in double from the samples'
// texts alone, each sequence by itself, and differentiated by central differences.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "tests/trainer/model_fixture.h"
#include "trainer/rollout/rollout_feed.h"
#include "trainer/run/rollout_setup.h"
#include "trainer/run/step.h"

namespace cadre::trainer {
namespace {

constexpr const char* kRun = R"(
seed: 5
device: cpu
threads: 1
data: {seq_len: 48, pack: false, prefetch: 1}
tasks: {name: arithmetic, levels: [1, 2], problems: 60, held_out: 6}
rollout: {group: 4, mini_batches: 2, max_new_tokens: 6, sequences: 10, page_size: 4}
objective: {name: vespo}
mixer: {name: uniform}
model: {dim: 16, layers: 2, heads: 2, kv_heads: 1, ffn_width: 24, first_dense_layers: 1, init_std: 0.2}
moe: {num_experts: 4, top_k: 2, width: 12, balance: none, z_loss: 0}
optim: {name: adamw, lr: 3.0e-3, weight_decay: 0}
schedule: {name: constant}
train: {steps: 1000, global_batch: 16, micro_batch: 5}
)";

RunConfig read(const std::vector<std::string>& overrides) {
  return read_run(base::parse_run_text(kRun, "rl.yaml", overrides));
}

Dataset problems(const RunConfig& config) {
  Dataset set;
  set.tokenizer = data::make_byte_tokenizer();
  set.train =
      data::make_task_corpus(*config.tasks, data::TaskSplit::kTrain, *set.tokenizer, data::SetKind::kPrompts);
  set.valid = data::make_task_corpus(*config.tasks, data::TaskSplit::kHeldOut, *set.tokenizer,
                                     data::SetKind::kPrompts);
  set.vocab = set.tokenizer->vocab_size();
  return set;
}

// Differs by prompt and response, so that one that went astray would show.
double checksum(const std::string& answer, const std::string& response) {
  int sum = std::stoi(answer) + 200;
  for (const char c : response) sum += uint8_t(c);
  return double(sum % 5) / 4;
}
class Checksum final : public data::Reward {
 public:
  std::vector<data::RewardResult> score(std::span<const data::RewardRequest> requests) const override {
    std::vector<data::RewardResult> results;
    for (const data::RewardRequest& r : requests) results.push_back({checksum(r.answer, r.response), {}, {}});
    return results;
  }
};

// A run whose rollouts are judged by Checksum.
struct JudgedRun {
  JudgedRun(const Dataset& set, comm::World& world, const std::vector<std::string>& overrides)
      : state(read(overrides), set, world) {
    const RunConfig& c = state.config();
    state.rollouts =
        std::make_unique<RolloutFeed>(RolloutFeedConfig{.rollout = *c.rollout,
                                                        .shape = {.seq_len = c.data.seq_len,
                                                                  .micro_batch = c.train.micro_batch,
                                                                  .pack = c.data.pack,
                                                                  .num_domains = set.train->num_domains()},
                                                        .inputs = state.objective->inputs(),
                                                        .global_batch = c.train.global_batch,
                                                        .seed = c.seed},
                                      SamplerContext{.model = &state.model.decoder,
                                                     .mesh = &state.model.mesh,
                                                     .tokenizer = set.tokenizer,
                                                     .reward = std::make_shared<Checksum>(),
                                                     .max_rows = c.train.micro_batch * c.data.seq_len,
                                                     .max_length = c.data.seq_len,
                                                     .seed = c.seed},
                                      state.feed, *set.train);
    state.on_batch = [this](const data::LoadedBatch& b) { batch = b; };
  }
  std::vector<std::vector<double>> values() const { return copy(&device::FlatParams<float>::values); }
  std::vector<std::vector<double>> grads() const { return copy(&device::FlatParams<float>::grads); }

  TrainState state;
  data::LoadedBatch batch;  // of the last step

 private:
  // By row of the table.
  std::vector<std::vector<double>> copy(
      device::View<float, 1> (device::FlatParams<float>::*flat)(device::Group) const) const {
    std::vector<std::vector<double>> rows;
    for (int row = 0; row < int(state.model.table.rows().size()); ++row) {
      const device::Placement& place = state.model.layout.at(row);
      const float* first = (state.model.store.*flat)(place.group).data() + place.offset;
      rows.emplace_back(first, first + place.count);
    }
    return rows;
  }
};

struct Sample {
  std::vector<int32_t> tokens;
  int64_t document = -1, prompt_length = 0;
  double reward = 0, advantage = 0, weight = 0;
};

// What stands in the batch's rows, with the prompt found by its text.
std::vector<Sample> samples_of(const data::LoadedBatch& loaded, const data::Corpus& prompts) {
  std::vector<Sample> all;
  for (const Batch& b : loaded.micro) {
    for (int64_t i = 0; i < b.num_tokens(); ++i) {
      if (b.segment[size_t(i)] < 0) continue;
      const bool begins = i % b.seq_len == 0 || b.segment[size_t(i - 1)] != b.segment[size_t(i)];
      if (begins) all.emplace_back().tokens.push_back(b.tokens[size_t(i)]);
      all.back().tokens.push_back(b.targets[size_t(i)]);
    }
  }
  for (Sample& s : all) {
    for (int64_t d = 0; d < prompts.num_documents(); ++d) {
      std::vector<int32_t> prompt(size_t(prompts.document(d).length));
      prompts.read(d, 0, prompt);
      if (prompt.size() >= s.tokens.size() || !std::equal(prompt.begin(), prompt.end(), s.tokens.begin()))
        continue;
      s.document = d;
      s.prompt_length = int64_t(prompt.size());
    }
    EXPECT_GE(s.document, 0) << "no prompt stands at the start of a sequence";
  }
  return all;
}

std::string answer_of(const Sample& s, const data::Corpus& prompts) {
  return prompts.prompt(s.document).answer;
}

// Rewards by the texts, advantages by the prompts: (r - mean) / std of those with the same prompt.
void judge(std::vector<Sample>& samples, const Dataset& set) {
  std::map<std::string, std::vector<Sample*>> groups;
  for (Sample& s : samples) {
    const std::span<const int32_t> tokens(s.tokens);
    const std::string prompt = set.tokenizer->decode(tokens.first(size_t(s.prompt_length))),
                      response = set.tokenizer->decode(tokens.subspan(size_t(s.prompt_length)));
    s.reward = checksum(answer_of(s, *set.train), response);
    groups[prompt].push_back(&s);
  }
  for (auto& [prompt, group] : groups) {
    ASSERT_EQ(group.size(), 4u) << "choose another seed: '" << prompt << "' came twice";
    double mean = 0, squares = 0;
    for (const Sample* s : group) mean += s->reward / 4;
    for (const Sample* s : group) squares += (s->reward - mean) * (s->reward - mean);
    for (Sample* s : group)
      s->advantage = squares == 0 ? 0 : (s->reward - mean) / (std::sqrt(squares / 3) + 1e-6);
  }
}

class Reference {
 public:
  explicit Reference(TrainState& state)
      : model_(state.config().model, state.config().moe, &state.model.mesh,
               {.max_sequences = 1, .seq_len = 48, .threads = 1}) {}

  void load(const std::vector<std::vector<double>>& values) {
    for (int row = 0; row < int(values.size()); ++row) {
      for (size_t i = 0; i < values[size_t(row)].size(); ++i)
        model_.value(row, int64_t(i)) = values[size_t(row)][i];
    }
  }
  double& value(int row, int64_t i) { return model_.value(row, i); }

  // log p(response | prompt), of this sequence alone.
  double log_probability(const Sample& s) {
    Batch b;
    b.num_sequences = 1;
    b.seq_len = int64_t(s.tokens.size()) - 1;
    b.tokens.assign(s.tokens.begin(), s.tokens.end() - 1);
    b.targets.assign(s.tokens.begin() + 1, s.tokens.end());
    for (int64_t i = 0; i < b.seq_len; ++i) {
      b.loss_mask.push_back(1);
      b.segment.push_back(0);
      b.position.push_back(int32_t(i));
    }
    const auto logp = model_.model->forward(b, false);
    double sum = 0;
    for (int64_t i = s.prompt_length - 1; i < b.seq_len; ++i) sum += logp[i];
    return sum;
  }
  // -sum phi A log p / tokens, with phi and A as constants.
  double loss(const std::vector<Sample>& samples) {
    double sum = 0, tokens = 0;
    for (const Sample& s : samples) {
      sum -= s.weight * s.advantage * log_probability(s);
      tokens += double(s.tokens.size()) - double(s.prompt_length);
    }
    return sum / tokens;
  }

 private:
  TestModel<double> model_;
};

double phi(double w, double advantage) {
  return advantage >= 0 ? w * w * std::exp(3 * (1 - w)) : w * w * w * std::exp(2 * (1 - w));
}

// Along one direction of random signs for each parameter tensor.
void expect_gradient(Reference& reference, const std::vector<Sample>& samples,
                     const std::vector<std::vector<double>>& values,
                     const std::vector<std::vector<double>>& grads, const TrainState& state) {
  const base::Philox rng(17);
  for (int row = 0; row < int(values.size()); ++row) {
    const auto sign = [&](size_t i) { return rng.bits(i, uint64_t(row)) % 2 == 0 ? 1.0 : -1.0; };
    const std::vector<double>& v = values[size_t(row)];
    double got = 0, squares = 0;
    for (size_t i = 0; i < v.size(); ++i) {
      got += sign(i) * grads[size_t(row)][i];
      squares += grads[size_t(row)][i] * grads[size_t(row)][i];
    }
    const auto loss_at = [&](double step) {
      for (size_t i = 0; i < v.size(); ++i) reference.value(row, int64_t(i)) = v[i] + step * sign(i);
      return reference.loss(samples);
    };
    constexpr double kStep = 1e-6;
    const double above = loss_at(kStep), below = loss_at(-kStep);
    loss_at(0);
    const std::string& name = state.model.table.row(row).name;
    EXPECT_GT(squares, 0) << name << " gets no gradient";
    EXPECT_NEAR(got, (above - below) / (2 * kStep), 1e-4 * std::sqrt(squares)) << name;
  }
}

// Three updates: the second trains on samples of older weights, the third on new samples.
void expect_naive_gradients(const std::vector<std::string>& overrides) {
  const Dataset set = problems(read(overrides));
  comm::run_threads(1, [&](comm::World& world) {
    JudgedRun run(set, world, overrides);
    Reference reference(run.state);
    std::vector<std::vector<double>> sampled_with;
    for (int step = 0; step < 3; ++step) {
      const auto values = run.values();
      if (step != 1) sampled_with = values;
      const StepReport report = train_step(run.state, {});
      std::vector<Sample> samples = samples_of(run.batch, *set.train);
      ASSERT_EQ(samples.size(), 16u);
      judge(samples, set);
      double reward = 0;
      for (Sample& s : samples) {
        reference.load(sampled_with);
        const double old = reference.log_probability(s);
        reference.load(values);
        s.weight = phi(std::exp(reference.log_probability(s) - old), s.advantage);
        reward += s.reward / 16;
      }
      EXPECT_NEAR(report.source.at("reward_mean").get<double>(), reward, 1e-12);
      EXPECT_NEAR(report.loss, reference.loss(samples), 1e-5);
      expect_gradient(reference, samples, values, run.grads(), run.state);
    }
  });
}

TEST(PolicyGradient, IsThatOfANaiveLoop) {
  expect_naive_gradients({});
}
TEST(PolicyGradient, IsThatOfANaiveLoopInPackedRows) {
  expect_naive_gradients({"data.pack=true", "data.seq_len=100", "train.micro_batch=2"});
}

// Sampling, judging and the gradient together: over many samples the gradient is that of the expected reward, which
// responses of one token let us sum. The means a and b over two halves of the samples are both g plus noise of its own, so
// that the slope of the reward along a, which is a . g, is a . b but for the noise of b.
TEST(PolicyGradient, IsOnAverageThatOfTheExpectedReward) {
  const std::vector<std::string> overrides = {"rollout.mini_batches=1",
                                              "rollout.max_new_tokens=1",
                                              "rollout.group=32",
                                              "train.global_batch=192",
                                              "rollout.sequences=192",
                                              "train.micro_batch=32",
                                              "optim.lr=1e-12",
                                              "tasks.problems=3",
                                              "objective={name: reinforce, tis_cap: 0, advantage: rloo}"};
  const Dataset set = problems(read(overrides));
  comm::run_threads(1, [&](comm::World& world) {
    JudgedRun run(set, world, overrides);
    const auto values = run.values();
    auto mean = values, other = values;
    for (auto* half : {&mean, &other}) {
      for (auto& row : *half) std::fill(row.begin(), row.end(), 0.0);
    }
    std::map<int64_t, double> drawn;
    constexpr int kSteps = 100;
    for (int step = 0; step < kSteps; ++step) {
      train_step(run.state, {});
      for (const Sample& s : samples_of(run.batch, *set.train)) drawn[s.document] += 1.0 / (192 * kSteps);
      const auto grads = run.grads();
      auto& half = step % 2 == 0 ? mean : other;
      for (size_t row = 0; row < grads.size(); ++row) {
        for (size_t i = 0; i < grads[row].size(); ++i) half[row][i] -= grads[row][i] / (kSteps / 2);
      }
    }
    ASSERT_GE(drawn.size(), 4u);
    Reference reference(run.state);
    const auto expected_reward = [&](double step) {
      auto moved = values;
      for (size_t row = 0; row < moved.size(); ++row) {
        for (size_t i = 0; i < moved[row].size(); ++i) moved[row][i] += step * mean[row][i];
      }
      reference.load(moved);
      double sum = 0, total = 0;
      for (const auto& [document, share] : drawn) {
        Sample s{.tokens = std::vector<int32_t>(size_t(set.train->document(document).length)),
                 .document = document};
        set.train->read(document, 0, s.tokens);
        s.prompt_length = int64_t(s.tokens.size());
        s.tokens.push_back(0);
        for (int32_t token = 0; token < int32_t(set.vocab); ++token) {
          s.tokens.back() = token;
          const double p = std::exp(reference.log_probability(s));
          total += share * p;
          sum += share * p *
                 checksum(answer_of(s, *set.train),
                          set.tokenizer->decode(std::span<const int32_t>(s.tokens).last(1)));
        }
      }
      EXPECT_NEAR(total, 1, 1e-9);
      return sum;
    };
    double products = 0;
    for (size_t row = 0; row < mean.size(); ++row)
      products = std::inner_product(mean[row].begin(), mean[row].end(), other[row].begin(), products);
    constexpr double kStep = 1e-3;
    const double slope = (expected_reward(kStep) - expected_reward(-kStep)) / (2 * kStep);
    EXPECT_NEAR(slope / products, 1, 0.3);
  });
}

}  // namespace
}  // namespace cadre::trainer
