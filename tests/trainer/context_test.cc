// Ranks that share sequences (`mesh.cp`) train what one rank with whole sequences trains.
#include <map>
#include <mutex>

#include "data/batch_rows.h"
#include "tests/trainer/model_fixture.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/run/evaluate.h"

namespace cadre::trainer {
namespace {

using testing::losses;
using testing::norms;
using testing::run_steps;
using Overrides = std::vector<std::string>;

Overrides with(Overrides overrides, const Overrides& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}

// ---- gradients of each tensor, in double

struct Mathematics {
  std::vector<double> logp;  // of all tokens of the batch
  double loss = 0;           // of balance and z
  std::map<std::string, std::vector<double>> gradients;
};

struct ModelCase {
  std::string name;
  int ranks = 2;
  comm::MeshConfig mesh;
  ModelConfig model = small_config();
  std::optional<moe::MoeConfig> moe;
  TestOptions options = {.max_sequences = 4, .seq_len = 24};
};

moe::MoeConfig experts() {
  return moe::read_moe(
      base::parse_run_text("moe: {num_experts: 4, top_k: 2, width: 6, num_shared: 1, z_loss: 0.01, "
                           "balance: {name: global_batch, coef: 0.1}}",
                           "moe.yaml", {})
          .section("moe"));
}

// This rank's rows of the batch, and of them its part.
Batch part_of(const Batch& whole, const comm::Mesh& mesh) {
  const int64_t rows = whole.num_sequences / mesh.row_ranks();
  Batch own = whole;
  own.num_sequences = rows;
  const auto keep = [&](auto& values) {
    const auto begin = values.begin() + mesh.row_rank() * rows * whole.seq_len;
    values = std::vector(begin, begin + rows * whole.seq_len);
  };
  keep(own.tokens);
  keep(own.targets);
  keep(own.loss_mask);
  keep(own.segment);
  keep(own.position);
  keep(own.domain);
  keep(own.document);
  return data::part_of_rows(std::move(own), mesh.context().rank(), mesh.context().size());
}

// One step's values and gradients, summed over ranks, of the whole batch.
Mathematics measure(const ModelCase& c, const Batch& whole) {
  Mathematics sum;
  sum.logp.resize(size_t(whole.num_tokens()));
  std::mutex mutex;
  comm::run_threads(c.ranks, [&](comm::World& world) {
    comm::Mesh mesh(world, c.mesh);
    TestOptions options = c.options;
    options.seq_len /= c.mesh.cp;
    options.max_sequences /= mesh.row_ranks();
    TestModel<double> m(c.model, c.moe, &mesh, options);
    const Batch own = part_of(whole, mesh);
    m.model->begin_step();
    const auto logp = m.model->forward(own, true);
    // Where a token of this rank stands in the whole batch.
    const auto place = [&](int64_t t) {
      const int64_t row = mesh.row_rank() * own.num_sequences + t / own.seq_len;
      return size_t(row * whole.seq_len + mesh.context().rank() * own.seq_len + t % own.seq_len);
    };
    std::vector<double> dlogp;
    for (int64_t t = 0; t < own.num_tokens(); ++t)
      dlogp.push_back(own.loss_mask[size_t(t)] * (0.5 + base::Philox(9).uniform(place(t))));
    const std::vector<double> kept(logp.begin(), logp.end());
    m.store->zero_grads();
    m.model->backward({dlogp.data(), {own.num_tokens()}}, counts_of(whole), [](int) {});
    const auto stats = m.model->moe_stats();
    const std::lock_guard lock(mutex);
    for (int64_t t = 0; t < own.num_tokens(); ++t) sum.logp[place(t)] = kept[size_t(t)];
    for (const moe::MoeStats& layer : stats) sum.loss += layer.aux_loss + layer.z_loss;
    for (int row = 0; row < int(m.table.rows().size()); ++row) {
      auto& tensor = sum.gradients[m.table.row(row).name];
      tensor.resize(size_t(m.table.row(row).numel()));
      const auto at = m.layout->at(row);
      for (int64_t i = 0; i < at.count; ++i) tensor[size_t(at.global_begin + i)] += m.grad(row, i);
    }
  });
  return sum;
}

void expect_same(const Mathematics& got, const Mathematics& expected, const std::string& what) {
  for (size_t t = 0; t < expected.logp.size(); ++t)
    ASSERT_NEAR(got.logp[t], expected.logp[t], 1e-11) << what << ", token " << t;
  EXPECT_NEAR(got.loss, expected.loss, 1e-12) << what;
  ASSERT_EQ(got.gradients.size(), expected.gradients.size());
  for (const auto& [name, tensor] : expected.gradients) {
    double largest = 0;
    for (const double x : tensor) largest = std::max(largest, std::abs(x));
    EXPECT_GT(largest, 1e-6) << name;
    for (size_t i = 0; i < tensor.size(); ++i)
      ASSERT_NEAR(got.gradients.at(name)[i], tensor[i], 1e-11 * largest)
          << what << ", " << name << "[" << i << "]";
  }
}

std::vector<ModelCase> model_cases() {
  ModelConfig plain = small_config(), by_head = plain, full = plain, many_kv = plain;
  by_head.qk_norm = QkNorm::kHead;
  full.qk_norm = QkNorm::kFull;
  many_kv.kv_heads = 4;
  TestOptions unmasked{.max_sequences = 4, .seq_len = 24, .mask_documents = false}, again = unmasked,
                                                                                    some = unmasked;
  again.mask_documents = some.mask_documents = true;
  again.recompute = Recompute::kFull;
  some.recompute = Recompute::kSelective;
  return {
      {"two ranks", 2, {.cp = 2}, plain, {}},
      {"no masks", 2, {.cp = 2}, plain, {}, unmasked},
      {"as many keys as queries", 4, {.cp = 4}, many_kv, {}},
      {"key heads shared by ranks", 4, {.cp = 4}, by_head, {}},
      {"two groups", 4, {.cp = 2}, full, {}},
      {"made again", 2, {.cp = 2}, by_head, {}, again},
      {"partly made again", 2, {.cp = 2}, by_head, {}, some},
      {"experts", 2, {.cp = 2}, plain, experts()},
      {"experts on both ranks of two groups", 4, {.ep = 2, .cp = 2}, plain, experts(), again},
      {"experts across groups", 4, {.ep = 4, .cp = 2}, plain, experts()},
  };
}

TEST(Context, GradientsOfEveryTensorAreThoseOfWholeSequences) {
  const Batch batch = packed_batch(4, 24, small_config().vocab);
  for (const ModelCase& c : model_cases()) {
    ModelCase alone = c;
    alone.ranks = 1;
    alone.mesh = {};
    expect_same(measure(c, batch), measure(alone, batch), c.name);
  }
}

// The masks of a document that crosses the parts' border: what stands before it changes nothing behind it.
TEST(Context, DocumentsOfAnotherRankAreMasked) {
  Batch batch = packed_batch(1, 24, small_config().vocab);
  for (int64_t t = 0; t < 24; ++t) {
    batch.segment[size_t(t)] = t < 9 ? 0 : 1;
    batch.position[size_t(t)] = int32_t(t < 9 ? t : t - 9);
    batch.loss_mask[size_t(t)] = 1;
  }
  const ModelCase c{"two ranks", 2, {.cp = 2}, small_config(), {}, {.max_sequences = 1, .seq_len = 24}};
  const Mathematics before = measure(c, batch);
  for (size_t t = 0; t < 9; ++t) batch.tokens[t] = (batch.tokens[t] + 1) % int32_t(small_config().vocab);
  const Mathematics after = measure(c, batch);
  for (size_t t = 0; t < 24; ++t) EXPECT_EQ(after.logp[t] == before.logp[t], t >= 9) << t;
}

// ---- runs

const Overrides kRun = {"model.heads=4", "model.kv_heads=2", "moe.balance={name: previous_batch}",
                        "train.micro_batch=8"};

struct Layout {
  int ranks;
  Overrides overrides;
};

TEST(Context, RunsLearnTheCurveOfOneRank) {
  const Layout layouts[] = {
      {2, {"mesh.cp=2"}},
      {2, {"mesh.cp=2", "mesh.ep=2", "train.micro_batch=3"}},
      {4, {"mesh.cp=2", "mesh.zero=3", "train.micro_batch=2"}},
      {4, {"mesh.cp=4", "mesh.ep=2", "mesh.zero=2", "train.micro_batch=4", "moe.dispatch=gather"}},
      {4, {"mesh.cp=2", "mesh.ep=4", "mesh.zero=0", "moe.dispatch=peer"}},
  };
  for (const Overrides& option :
       {Overrides{}, Overrides{"data.mask_documents=false", "model.qk_norm=full"}}) {
    const auto expected = run_steps(1, with(kRun, option), 10);
    for (const Layout& layout : layouts) {
      const auto got = run_steps(layout.ranks, with(with(kRun, option), layout.overrides), 10);
      const std::string what = fmt::format("{} ranks, {}", layout.ranks, fmt::join(layout.overrides, " "));
      testing::expect_same_curve(losses(got), losses(expected), what);
      testing::expect_same_curve(norms(got), norms(expected), "norm, " + what, 1e-3);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].domain_tokens, expected[i].domain_tokens) << what;
        EXPECT_EQ(got[i].piece_length, expected[i].piece_length) << what;
        EXPECT_NEAR(got[i].aux_loss, expected[i].aux_loss, 1e-4 * expected[i].aux_loss) << what;
        for (size_t k = 0; k < 3; ++k)
          EXPECT_NEAR(got[i].domain_loss[k], expected[i].domain_loss[k], 1e-4 * expected[i].domain_loss[k])
              << what;
      }
      EXPECT_EQ(got[0].expert_tokens, expected[0].expert_tokens) << what;
    }
  }
}

// A dense model; one micro-batch a step, where every stage has the same bits.
TEST(Context, RepeatsRecomputationAndStagesGiveTheSameBits) {
  const Overrides dense = with(kRun, {"model.first_dense_layers=3", "mesh.cp=2", "train.micro_batch=4"});
  const Overrides sparse =
      with(kRun, {"mesh.cp=2", "mesh.ep=2", "train.micro_batch=4", "model.qk_norm=head"});
  for (const Overrides& run : {dense, sparse}) {
    const auto first = run_steps(4, run, 4);
    for (const char* change : {"mesh.zero=1", "mesh.zero=2", "mesh.zero=3",
                               "train.activation_recompute=selective", "train.activation_recompute=full"}) {
      const auto again = run_steps(4, with(run, {change}), 4);
      EXPECT_EQ(losses(again), losses(first)) << change;
      EXPECT_EQ(norms(again), norms(first)) << change;
    }
  }
}

TEST(Context, CheckpointsGoFromAnyDegreeToAny) {
  testing::TempFolder folder;
  const auto straight = losses(run_steps(1, kRun, 8));
  std::vector<double> resumed;
  const auto go_on = [&](int ranks, const Overrides& layout, uint64_t until) {
    for (const double loss : losses(run_steps(ranks, with(kRun, layout), until, folder.path())))
      resumed.push_back(loss);
  };
  go_on(2, {"mesh.cp=2"}, 2);
  go_on(1, {}, 4);
  go_on(4, {"mesh.cp=2", "mesh.ep=2", "mesh.zero=3"}, 6);
  go_on(4, {"mesh.cp=4"}, 8);
  testing::expect_same_curve(resumed, straight, "resumed");
}

TEST(Context, EvaluationCountsEveryTokenOnce) {
  static const Dataset dataset = testing::tiny_dataset();
  std::map<int, std::vector<double>> nats;
  for (const int cp : {1, 2, 4}) {
    comm::run_threads(4, [&](comm::World& world) {
      const RunConfig config = testing::tiny_run(with(kRun, {fmt::format("mesh.cp={}", cp)}));
      TrainState state(config, dataset, world);
      const EvalSet set = choose_documents(*dataset.valid, 100, false);
      for (const DomainScore& score : evaluate(state.model, *dataset.valid, set, 3)) {
        if (world.rank() == 0) nats[cp].push_back(score.nats);
      }
    });
    for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(nats[cp][k], nats[1][k], 1e-5 * nats[1][k]) << cp;
  }
}

TEST(Context, AMixerSeesTheSameExcessOverItsReference) {
  testing::TempFolder folder;
  run_steps(1, kRun, 10, folder.path() / "checkpoints");
  const Overrides doremi =
      with(kRun, {"mixer={name: doremi, reference: " + folder.path().string() + "}", "data.prefetch=0"});
  const auto alone = run_steps(1, doremi, 5), shared = run_steps(2, with(doremi, {"mesh.cp=2"}), 5);
  testing::expect_same_curve(shared.back().domain_weight, alone.back().domain_weight, "weights");
  EXPECT_NE(alone.back().domain_weight, alone.front().domain_weight) << "they move";
}

// ---- what is planned and refused

TEST(Context, MemoryIsPlannedWithItsShareOfTheTokens) {
  static const Dataset dataset = testing::tiny_dataset();
  std::map<int, size_t> activations;
  for (const int cp : {1, 2, 4}) {
    comm::run_threads(4, [&](comm::World& world) {
      const TrainState state(
          testing::tiny_run(with(kRun, {fmt::format("mesh.cp={}", cp), "data.seq_len=512"})), dataset, world);
      const MemoryPlan& plan = state.model.plan;
      EXPECT_EQ(plan.activations, state.model.saved.bytes());
      EXPECT_EQ(plan.scratch, state.model.scratch.bytes());
      if (world.rank() == 0) activations[cp] = plan.activations;
    });
  }
  EXPECT_LT(double(activations[2]), 0.6 * double(activations[1]));
  EXPECT_LT(double(activations[4]), 0.6 * double(activations[2]));
}

std::string refusal(const Overrides& overrides, int ranks) {
  static const Dataset dataset = testing::tiny_dataset();
  std::string message;
  try {
    comm::run_threads(ranks, [&](comm::World& world) {
      const TrainState state(testing::tiny_run(overrides), dataset, world);
    });
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage) << error.what();
    message = error.what();
  }
  return message;
}

TEST(Context, WhatItCannotDoIsRefusedInOneLine) {
  const std::pair<Overrides, std::string> cases[] = {
      {{"data.seq_len=17"}, "data.seq_len is 17"},
      {{"model.heads=1"}, "model.heads = 1"},
      {{"model.dim=24", "model.heads=6", "model.kv_heads=3"}, "model.kv_heads = 3"},
      {{"moe.balance={name: sequence}"}, "moe.balance"},
      {{"influence.period=2"}, "influence.period is 2"},
      {{"mixer={name: gim}"}, "mixer.name"},
      {{"objective=dpo"}, "objective.name"},
      {{"rollout={sequences: 2}"}, "rollout"},
      {{"selector={name: rho1, reference: somewhere}"}, "selector.name"},
  };
  for (const auto& [overrides, named] : cases) {
    const std::string message = refusal(with({"mesh.cp=2"}, overrides), 2);
    EXPECT_NE(message.find(named), std::string::npos) << named << ": '" << message << "'";
    EXPECT_NE(message.find("mesh.cp"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  EXPECT_EQ(refusal({"mesh.cp=2"}, 2), "");
  EXPECT_NE(refusal({"mesh.cp=2"}, 3).find("found 3 ranks and mesh.cp = 2"), std::string::npos);
}

}  // namespace
}  // namespace cadre::trainer
