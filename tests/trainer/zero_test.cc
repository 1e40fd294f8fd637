// mesh.zero says where states, gradients and parameters lie, and nothing else: training gives the same bits at every stage,
// and checkpoints go from any to any.
#include <map>
#include <mutex>

#include "parallel/device/sharding.h"
#include "tests/trainer/post_training_fixture.h"
#include "trainer/run/evaluate.h"

namespace cadre::trainer {
namespace {

using device::Group;
using testing::run_steps;
using Overrides = std::vector<std::string>;
using Tensors = std::map<std::string, std::vector<float>>;

Overrides with(Overrides overrides, const Overrides& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}
std::string stage(int zero) {
  return fmt::format("mesh.zero={}", zero);
}

// This rank's slices of the values and of the optimizer's first state, at their places in whole tensors. Slices of all
// ranks together are all elements.
void add_slices(TrainState& state, Tensors& tensors) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  for (int g = 0; g < device::kNumGroups; ++g) {
    const auto moments = state.optimizer->state("m", Group(g));
    for (const comm::Piece& piece : state.optimizer_context.pieces[g]) {
      const device::ParamRow& row = state.model.table.row(piece.row);
      const int64_t begin = state.model.layout.at(piece.row).global_begin + piece.row_begin;
      const device::ElementOrder order = state.model.layout.order(piece.row);
      const auto copy = [&](const std::string& name, const float* from) {
        auto& tensor = tensors[name];
        tensor.resize(size_t(row.numel()), std::nanf(""));
        for (int64_t i = 0; i < piece.count; ++i) tensor[size_t(order.plain(begin + i))] = from[i];
      };
      copy(row.name, state.model.store.own_masters(Group(g), piece.range()).data());
      copy("m." + row.name, moments.rows(piece.state_offset, piece.count).data());
    }
  }
}

struct Trained {
  std::vector<double> losses, norms;
  Tensors tensors;
};

Trained train_for(int ranks, const Overrides& overrides, uint64_t steps) {
  static const Dataset dataset = testing::tiny_dataset();
  Trained result;
  comm::run_threads(ranks, [&](comm::World& world) {
    TrainState state(testing::tiny_run(overrides), dataset, world);
    while (state.progress.step < steps) {
      const StepReport report = train_step(state, {});
      if (world.rank() != 0) continue;
      result.losses.push_back(report.loss);
      result.norms.push_back(report.grad_norm);
    }
    state.reducer.finish_values();
    add_slices(state, result.tensors);
  });
  return result;
}

void expect_same_bits(const Trained& got, const Trained& expected, const std::string& what) {
  EXPECT_EQ(got.losses, expected.losses) << what;
  // Without slices one rank adds up all squares.
  const double tolerance = what == stage(0) ? 1e-12 : 0;
  testing::expect_same_curve(got.norms, expected.norms, what + ", norm", tolerance);
  EXPECT_EQ(got.tensors == expected.tensors, true) << what << ": weights or moments differ";
}

// Elements whose bits differ would compare unequal if they were not numbers, so none is.
TEST(Zero, SlicesCoverTheModel) {
  const Trained trained = train_for(4, {"mesh.ep=2", "train.micro_batch=1", stage(3)}, 1);
  EXPECT_GT(trained.tensors.size(), 20u);
  for (const auto& [name, tensor] : trained.tensors) {
    for (const float x : tensor) ASSERT_TRUE(std::isfinite(x)) << name;
  }
}

struct Case {
  int ranks;
  Overrides overrides;
};
class Stages : public ::testing::TestWithParam<Case> {};

// One micro-batch a step; the gradient's norm is far above the bound, so that clipping takes part.
TEST_P(Stages, GiveTheSameBitsFromOneMicroBatch) {
  const auto& [ranks, given] = GetParam();
  const Overrides overrides =
      with(given, {fmt::format("train.micro_batch={}", 8 / ranks), "train.clip_norm=0.1"});
  const Trained expected = train_for(ranks, with(overrides, {stage(1)}), 5);
  EXPECT_GT(expected.norms.front(), 0.1);
  for (const int zero : {0, 2, 3})
    expect_same_bits(train_for(ranks, with(overrides, {stage(zero)}), 5), expected, stage(zero));
}

// Sharded gradients are summed over ranks before micro-batches, whole ones after: other roundings, the same curve. Both
// sharded stages, and repeats, have the same bits.
TEST_P(Stages, GiveTheSameCurveFromSeveralMicroBatches) {
  const auto& [ranks, given] = GetParam();
  const Overrides overrides = with(given, {"train.micro_batch=1", "train.global_batch=9"});
  const Trained whole = train_for(ranks, with(overrides, {stage(1)}), 5);
  const Trained two = train_for(ranks, with(overrides, {stage(2)}), 5);
  testing::expect_same_curve(two.losses, whole.losses, "loss");
  testing::expect_same_curve(two.norms, whole.norms, "norm", 1e-3);
  EXPECT_NEAR(two.norms[0], whole.norms[0], 1e-7 * whole.norms[0]) << "before any update";
  expect_same_bits(train_for(ranks, with(overrides, {stage(2)}), 5), two, "again");
  expect_same_bits(train_for(ranks, with(overrides, {stage(3)}), 5), two, "stage 3");
}

INSTANTIATE_TEST_SUITE_P(
    Runs, Stages,
    ::testing::Values(Case{1, {}}, Case{2, {}}, Case{2, {"mesh.ep=2"}},
                      Case{4, {"mesh.ep=2", "train.activation_recompute=full"}},
                      Case{4, {"mesh.ep=2", "moe.shares=width", "train.activation_recompute=full"}},
                      Case{4, {"mesh.ep=2", "optim={name: muon, lr: 0.003}", "model.tie_head=false"}},
                      Case{2, {"model.first_dense_layers=3", "model.layers=3", "model.tie_head=true"}},
                      Case{2,
                           {"mesh.ep=2", "moe.dispatch=gather", "moe.num_shared=1",
                            "train.activation_recompute=selective"}}));

// Also between steps, when some values have left for the next one already.
TEST(Zero, EvaluationSeesTheSameModel) {
  static const Dataset dataset = testing::tiny_dataset();
  std::map<int, std::vector<double>> nats;
  for (const int zero : {1, 3}) {
    comm::run_threads(2, [&](comm::World& world) {
      TrainState state(testing::tiny_run({"train.micro_batch=4", stage(zero)}), dataset, world);
      const EvalSet set = choose_documents(*dataset.valid, 100, false);
      for (int step = 0; step < 3; ++step) {
        for (const DomainScore& score : evaluate(state.model, *dataset.valid, set, 4)) {
          if (world.rank() == 0) nats[zero].push_back(score.nats);
        }
        train_step(state, {});
      }
    });
  }
  EXPECT_EQ(nats[3], nats[1]);
}

// What a run saves at one stage and layout, every other one reads, and saves as the same model.
TEST(Zero, CheckpointsGoFromAnyStageAndLayoutToAny) {
  struct Layout {
    int ranks, ep, zero;
    const char* shares = "experts";
  };
  static const Dataset dataset = testing::tiny_dataset();
  const Layout layouts[] = {{1, 1, 1}, {2, 1, 2}, {2, 2, 3},          {4, 2, 3},
                            {4, 1, 2}, {2, 2, 0}, {2, 2, 1, "width"}, {4, 2, 3, "width"}};
  for (const Layout& from : layouts) {
    testing::TempFolder folder;
    const auto overrides = [](const Layout& l) {
      return Overrides{fmt::format("mesh.ep={}", l.ep), stage(l.zero), "train.micro_batch=2",
                       fmt::format("moe.shares={}", l.shares)};
    };
    run_steps(from.ranks, overrides(from), 2, folder.path());
    Tensors first;
    for (const Layout& to : layouts) {
      Tensors found;
      comm::run_threads(to.ranks, [&](comm::World& world) {
        TrainState state(testing::tiny_run(overrides(to)), dataset, world);
        train_step(state, {});  // other values than the checkpoint's, some of them on their way
        TensorReader reader(*newest_checkpoint(folder.path(), state.model.mesh.data()));
        restore(state, reader);
        add_slices(state, found);
        EXPECT_TRUE(std::isfinite(train_step(state, {}).loss));
      });
      if (first.empty()) first = found;
      EXPECT_EQ(found == first, true)
          << fmt::format("from {} ranks, ep {}, zero {}, {} to {}, {}, {}, {}", from.ranks, from.ep,
                         from.zero, from.shares, to.ranks, to.ep, to.zero, to.shares);
    }
  }
}

// Elements that a rank holds, of values and gradients, against the sizes of its groups and buckets.
TEST(Zero, MemoryFallsFromStageToStage) {
  static const Dataset dataset = testing::tiny_dataset();
  for (const int ep : {1, 2}) {
    comm::run_threads(4, [&](comm::World& world) {
      size_t bytes[4];
      double whole = 0, own = 0, turns = 0;
      for (int zero = 1; zero <= 3; ++zero) {
        // Eight layers: most of a model is in none of the places.
        TrainState state(testing::tiny_run({fmt::format("mesh.ep={}", ep), "train.micro_batch=1",
                                            "model.layers=8", stage(zero)}),
                         dataset, world);
        bytes[zero] = state.model.store.bytes();
        EXPECT_EQ(bytes[zero], state.model.plan.parameters) << "as planned";
        if (zero > 1) continue;
        for (int g = 0; g < device::kNumGroups; ++g) {
          std::vector<int64_t> sizes;
          for (int b = 0; b < state.model.table.num_buckets(); ++b)
            sizes.push_back(state.model.layout.bucket(Group(g), b).size());
          whole += double(state.model.layout.group_size(Group(g)));
          own += double(state.optimizer_context.state_size[g]);
          turns += double(device::Turns(sizes).size());
        }
      }
      EXPECT_EQ(double(bytes[1]), 4 * (2 * whole));
      EXPECT_EQ(double(bytes[2]), 4 * (whole + own + turns));
      EXPECT_EQ(double(bytes[3]), 4 * (2 * own + 2 * turns));
      EXPECT_LT(bytes[2], bytes[1]);
      EXPECT_LT(bytes[3], bytes[2]);
    });
  }
}

std::string refused(int ranks, const Overrides& overrides, const Dataset& dataset) {
  std::string message;
  comm::run_threads(ranks, [&](comm::World& world) {
    try {
      TrainState state(testing::tiny_run(overrides), dataset, world);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      if (world.rank() == 0) message = error.what();
    }
  });
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

TEST(Zero, WhatCannotBeIsRefusedInALine) {
  static const Dataset dataset = testing::tiny_dataset(), pairs = testing::preferences();
  EXPECT_NE(refused(1, {stage(4)}, dataset).find("zero"), std::string::npos);
  const Overrides influence = {stage(2), "influence.period=4", "influence.tokens_per_domain=60",
                               "eval.tokens_per_domain=60"};
  EXPECT_NE(refused(2, influence, dataset).find("set mesh.zero: 1"), std::string::npos);
  EXPECT_EQ(refused(1, influence, dataset), "") << "alone, a rank has everything";
  const Overrides three = with(testing::kPairs, {stage(3)}), two = with(testing::kPairs, {stage(2)});
  EXPECT_NE(refused(2, three, pairs).find("set mesh.zero: 2"), std::string::npos);
  EXPECT_EQ(refused(2, two, pairs), "");
  // Code that reads gradients as one flat buffer says what to change.
  comm::run_threads(2, [&](comm::World& world) {
    TrainState state(testing::tiny_run({stage(2), "train.micro_batch=4"}), dataset, world);
    try {
      state.model.store.grads(Group::kDense);
      ADD_FAILURE() << "gradients are not whole";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("set mesh.zero: 1"), std::string::npos) << error.what();
    }
  });
}

// A run that does not fit is told the lowest stage that does.
TEST(Zero, IsAdvisedWhereItMakesARunFit) {
  comm::run_threads(4, [&](comm::World& world) {
    RunConfig config = testing::tiny_run({"model.layers=8", "train.micro_batch=2"});
    set_vocab(config, testing::kVocab);
    device::CpuQueue queue(1);
    comm::Mesh mesh(world, config.mesh);
    RunConfig two = config;
    two.mesh.zero = 2;
    const size_t room = plan_memory(two, queue, mesh, 2, true).total();
    try {
      require_memory(config, queue, mesh, 2, true, room);
      ADD_FAILURE() << "it does not fit";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("mesh.zero: 2 fits"), std::string::npos) << error.what();
    }
  });
}

}  // namespace
}  // namespace cadre::trainer
