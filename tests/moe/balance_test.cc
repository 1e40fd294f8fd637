// Balance losses against their formulas, against central differences, and over every way to cut a batch.
#include <algorithm>
#include <mutex>
#include <numeric>

#include "parallel/base/errors.h"
#include "tests/moe/rig.h"

namespace cadre::moe {
namespace {

constexpr int kExperts = 4, kTopK = 2;
constexpr int64_t kSeqLen = 5;
constexpr double kCoef = 0.3;

// Tokens of a batch: probabilities, choices (the two most probable), segments. Sequence 2 has 3 real tokens,
// sequence 5 none.
struct Tokens {
  explicit Tokens(int64_t sequences) : segment(sequences * kSeqLen, 0) {
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t i = s % 6 == 2 ? 3 : s % 6 == 5 ? 0 : kSeqLen; i < kSeqLen; ++i)
        segment[s * kSeqLen + i] = -1;
    const auto z = normals<double>(segment.size() * kExperts, 5);
    for (size_t t = 0; t < segment.size(); ++t) {
      std::vector<double> row(kExperts);
      double sum = 0;
      for (int e = 0; e < kExperts; ++e) sum += row[e] = std::exp(z[t * kExperts + e]);
      std::vector<int32_t> order(kExperts);
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
      for (int e = 0; e < kExperts; ++e) probs.push_back(segment[t] < 0 ? 0 : row[e] / sum);
      for (int j = 0; j < kTopK; ++j) choice.push_back(segment[t] < 0 ? -1 : order[j]);
    }
  }
  int64_t size() const { return int64_t(segment.size()); }
  std::vector<double> probs;
  std::vector<int32_t> choice, segment;
};

// Tokens [begin, end) as a micro-batch.
struct Piece {
  Piece(Tokens& all, int64_t begin, int64_t end)
      : tally(kExperts + 1), segment(view(all.segment, {all.size()}).rows(begin, end - begin)) {
    for (int64_t i = begin * kTopK; i < end * kTopK; ++i)
      if (all.choice[i] >= 0) ++tally[all.choice[i]];
    routing.num_tokens = end - begin;
    routing.num_experts = kExperts;
    routing.probs = view(all.probs, {all.size(), int64_t(kExperts)}).rows(begin, end - begin);
    routing.choice = view(all.choice, {all.size(), int64_t(kTopK)}).rows(begin, end - begin);
    routing.tally = view(tally, {kExperts + 1});
  }
  std::vector<int64_t> tally;
  device::View<const int32_t, 1> segment;
  Routing<double> routing;
};

struct LossRig {
  explicit LossRig(const std::string& name) : loss(make_balance_loss<double>(config(name), shape())) {
    loss->reserve(saved, scratch);
    saved.allocate();
    scratch.allocate();
    scratch.release(0);
    loss->reserve(saved, scratch);
  }
  double loss_and_grad(const Piece& piece, const BatchCounts& counts, device::View<double, 2> dprobs) {
    double share = 0;
    loss->loss_and_grad(piece.routing, piece.segment, kSeqLen, counts, dprobs, {&share, {1}});
    return share;
  }
  static MoeConfig config(const std::string& name) {
    const std::string coef = name == "none" ? "" : fmt::format(", coef: {}", kCoef);
    return moe_config(
        fmt::format("{{num_experts: {}, top_k: {}, balance: {{name: {}{}}}}}", kExperts, kTopK, name, coef));
  }
  BalanceShape<double> shape() {
    return {.num_experts = kExperts,
            .top_k = kTopK,
            .max_tokens = 100,
            .queue = &queue,
            .kernels = &cpu_moe_kernels<double>()};
  }
  device::CpuQueue queue{2};
  device::Arena saved{"saved", device::DeviceKind::kCpu}, scratch{"scratch", device::DeviceKind::kCpu};
  std::unique_ptr<BalanceLoss<double>> loss;
};

struct Result {
  double loss = 0;
  std::vector<double> dprobs;
};

// The batch over `ranks` ranks of `micros` micro-batches each, in order.
Result run(const std::string& name, Tokens& tokens, int ranks, int micros) {
  Result total;
  total.dprobs.resize(tokens.probs.size());
  const BatchCounts counts = counts_of(tokens.segment, kSeqLen);
  std::mutex mutex;
  comm::run_threads(ranks, [&](comm::World& world) {
    comm::Mesh mesh(world, {});
    LossRig rig(name);
    rig.loss->begin_step();
    const int64_t length = tokens.size() / (ranks * micros);
    for (int m = 0; m < micros; ++m) {
      const int64_t begin = (world.rank() * micros + m) * length;
      Piece piece(tokens, begin, begin + length);
      rig.loss->observe(piece.routing, piece.segment, kSeqLen, mesh.data());
      const auto dprobs = view(total.dprobs, {tokens.size(), int64_t(kExperts)}).rows(begin, length);
      const double share = rig.loss_and_grad(piece, counts, dprobs);
      std::lock_guard lock(mutex);
      total.loss += share;
    }
  });
  return total;
}

// alpha E sum_i f_i P_i over tokens [begin, end), from scratch.
double switch_loss(const Tokens& tokens, int64_t begin, int64_t end) {
  double loss = 0, real = 0;
  for (int64_t t = begin; t < end; ++t) real += tokens.segment[t] >= 0;
  for (int e = 0; e < kExperts && real > 0; ++e) {
    double f = 0, p = 0;
    for (int64_t t = begin; t < end; ++t) {
      if (tokens.segment[t] < 0) continue;
      p += tokens.probs[t * kExperts + e] / real;
      for (int j = 0; j < kTopK; ++j) f += (tokens.choice[t * kTopK + j] == e) / (kTopK * real);
    }
    loss += kCoef * kExperts * f * p;
  }
  return loss;
}

class EveryBalance : public testing::TestWithParam<std::string> {};
std::vector<std::string> names() {
  std::vector<std::string> names;
  for (const auto& entry : balance_table<double>()) names.push_back(entry.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Losses, EveryBalance, testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

// f is constant while the choices are given, so differences over the probabilities see what the gradient is
// of.
TEST_P(EveryBalance, GradientMatchesCentralDifferences) {
  Tokens tokens(6);
  const Result result = run(GetParam(), tokens, 1, 2);
  // Probabilities of padding do not exist: their gradient is 0 and differences are not taken.
  for (int64_t t = 0; t < tokens.size(); ++t) {
    for (int e = 0; e < kExperts; ++e) {
      const int64_t i = t * kExperts + e;
      if (tokens.segment[t] < 0) {
        EXPECT_EQ(result.dprobs[i], 0);
        continue;
      }
      const double kept = tokens.probs[i];
      tokens.probs[i] = kept + 1e-4;
      const double above = run(GetParam(), tokens, 1, 2).loss;
      tokens.probs[i] = kept - 1e-4;
      const double below = run(GetParam(), tokens, 1, 2).loss;
      tokens.probs[i] = kept;
      EXPECT_NEAR(result.dprobs[i], (above - below) / 2e-4, 1e-10) << t << " " << e;
    }
  }
}

TEST_P(EveryBalance, IsTheSameForEverySplitUnlessItSaysOtherwise) {
  Tokens tokens(12);
  const Result whole = run(GetParam(), tokens, 1, 1);
  const bool any_split = !LossRig(GetParam()).loss->split_dependent();
  for (const auto& [ranks, micros] : {std::pair(1, 2), std::pair(2, 1), std::pair(4, 3), std::pair(1, 12)}) {
    const Result cut = run(GetParam(), tokens, ranks, micros);
    if (!any_split && !(GetParam() == "global_batch" && micros == 1)) {
      EXPECT_GT(std::abs(cut.loss - whole.loss), 1e-6) << "does not depend on the split after all";
      continue;
    }
    EXPECT_NEAR(cut.loss, whole.loss, 1e-13) << ranks << " ranks, " << micros << " micro-batches";
    for (size_t i = 0; i < whole.dprobs.size(); ++i) ASSERT_NEAR(cut.dprobs[i], whole.dprobs[i], 1e-14) << i;
  }
}

TEST_P(EveryBalance, TakesARankWithoutTokens) {
  Tokens tokens(4);
  std::fill(tokens.segment.begin(), tokens.segment.begin() + 10, -1);
  std::fill(tokens.probs.begin(), tokens.probs.begin() + 10 * kExperts, 0.0);
  std::fill(tokens.choice.begin(), tokens.choice.begin() + 10 * kTopK, -1);
  const Result result = run(GetParam(), tokens, 2, 1);
  EXPECT_TRUE(std::isfinite(result.loss));
  for (int i = 0; i < 10 * kExperts; ++i) EXPECT_EQ(result.dprobs[i], 0);
  EXPECT_EQ(result.loss > 0, GetParam() != "none");
}

// Gradients of a text alone, as influence takes them, come without counts.
TEST_P(EveryBalance, StaysOutWithoutCounts) {
  Tokens tokens(4);
  std::vector<double> dprobs(tokens.probs.size(), 0.0);
  comm::run_threads(1, [&](comm::World& world) {
    comm::Mesh mesh(world, {});
    LossRig rig(GetParam());
    rig.loss->begin_step();
    Piece piece(tokens, 0, tokens.size());
    rig.loss->observe(piece.routing, piece.segment, kSeqLen, mesh.data());
    EXPECT_EQ(rig.loss_and_grad(piece, {}, view(dprobs, {tokens.size(), int64_t(kExperts)})), 0);
  });
  for (const double d : dprobs) EXPECT_EQ(d, 0);
}

TEST(BalanceLoss, MicroBatchAndGlobalBatchAreTheSwitchLossOfTheirTokens) {
  Tokens tokens(6);
  EXPECT_NEAR(run("micro_batch", tokens, 1, 1).loss, switch_loss(tokens, 0, tokens.size()), 1e-13);
  EXPECT_NEAR(run("global_batch", tokens, 2, 1).loss, switch_loss(tokens, 0, tokens.size()), 1e-13);
  // Pieces weigh as much as their real tokens: 3 x 5 - 2 = 13 and 2 x 5 = 10 of 23.
  const double pieces = 13.0 / 23 * switch_loss(tokens, 0, 15) + 10.0 / 23 * switch_loss(tokens, 15, 30);
  EXPECT_NEAR(run("micro_batch", tokens, 2, 1).loss, pieces, 1e-13);
}

TEST(BalanceLoss, SequenceIsTheMeanOverSequences) {
  Tokens tokens(6);
  double sum = 0;
  for (int64_t s = 0; s < 6; ++s) sum += switch_loss(tokens, s * kSeqLen, (s + 1) * kSeqLen);
  EXPECT_NEAR(run("sequence", tokens, 1, 1).loss, sum / 5, 1e-13);  // sequence 5 is all padding
}

TEST(BalanceLoss, IsItsCoefficientAtPerfectBalance) {
  Tokens tokens(4);
  for (int64_t t = 0; t < tokens.size(); ++t) {
    tokens.segment[t] = 0;
    for (int e = 0; e < kExperts; ++e) tokens.probs[t * kExperts + e] = 0.25;
    for (int j = 0; j < kTopK; ++j) tokens.choice[t * kTopK + j] = int32_t(t + j) % kExperts;
  }
  for (const char* name : {"micro_batch", "global_batch", "previous_batch"})
    EXPECT_NEAR(run(name, tokens, 1, 1).loss, kCoef, 1e-12) << name;
}

TEST(BalanceLoss, GlobalBatchCountsTheStepSoFar) {
  Tokens tokens(6);
  LossRig rig("global_batch");
  comm::run_threads(1, [&](comm::World& world) {
    comm::Mesh mesh(world, {});
    const BatchCounts counts = counts_of(tokens.segment, kSeqLen);
    std::vector<double> dprobs(60);
    auto share = [&](int64_t begin) {
      Piece piece(tokens, begin, begin + 15);
      rig.loss->observe(piece.routing, piece.segment, kSeqLen, mesh.data());
      return rig.loss_and_grad(piece, counts, view(dprobs, {15, 4}));
    };
    rig.loss->begin_step();
    const double first = share(0), second = share(15), first_alone = 13.0 / 23 * switch_loss(tokens, 0, 15);
    EXPECT_NEAR(first, first_alone, 1e-13);
    EXPECT_GT(std::abs(second - 10.0 / 23 * switch_loss(tokens, 15, 30)), 1e-6);
    rig.loss->begin_step();
    EXPECT_NEAR(share(15), 10.0 / 23 * switch_loss(tokens, 15, 30), 1e-13);
  });
}

TEST(BalanceLoss, PreviousBatchUsesAndSavesTheLoadOfTheLastStep) {
  Tokens tokens(6);
  LossRig rig("previous_batch"), loaded("previous_batch");
  rig.loss->after_step({1, 0, 3, 0});
  StateDict state;
  rig.loss->save(state, "layers.2.moe");
  EXPECT_EQ(state.at("layers.2.moe.balance.load"), (std::vector<double>{0.25, 0, 0.75, 0}));
  loaded.loss->load(state, "layers.2.moe");
  loaded.loss->after_step({0, 0, 0, 0});  // no tokens, nothing learnt
  Piece piece(tokens, 0, 30);
  std::vector<double> dprobs(120);
  const BatchCounts counts = counts_of(tokens.segment, kSeqLen);
  loaded.loss_and_grad(piece, counts, view(dprobs, {30, 4}));
  EXPECT_NEAR(dprobs[0], kCoef * 4 * 0.25 / 23, 1e-14);
  EXPECT_NEAR(dprobs[2], kCoef * 4 * 0.75 / 23, 1e-14);
  EXPECT_THROW(loaded.loss->load({}, "layers.2.moe"), Error);
}

}  // namespace
}  // namespace cadre::moe
