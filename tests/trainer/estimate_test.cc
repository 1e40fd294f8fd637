// Estimates against arithmetic by hand.
#include "trainer/run/estimate.h"

#include <fstream>

#include "tests/trainer/run_fixture.h"
#include "trainer/run/timeline.h"

namespace cadre::trainer {
namespace {

// One layer with experts; embedding and head share a matrix.
RunConfig small_run() {
  return testing::tiny_run(
      {"model={vocab: 1000, dim: 64, layers: 1, heads: 4, kv_heads: 4, first_dense_layers: 0}",
       "moe.num_experts=8", "moe.width=32", "data.seq_len=128", "train.micro_batch=4",
       "train.global_batch=4"});
}
const Estimate& with_ep(const std::vector<Estimate>& all, int ep) {
  return *std::find_if(all.begin(), all.end(),
                       [&](const Estimate& e) { return e.ep == ep && e.recompute == Recompute::kNone; });
}

TEST(Estimate, OneGpuOnlyComputes) {
  const Cluster one{.nodes = 1, .gpus_per_node = 1};
  const auto all = estimate_layouts(one, small_run());
  ASSERT_EQ(all.size(), 3u);  // one for each kind of recomputation
  const Estimate& e = with_ep(all, 1);
  EXPECT_EQ(e.experts_ms + e.gradients_ms + e.values_ms + e.beside_ms, 0);
  // 6 (attention 4 d^2 + router 8 d + 2 experts of 3 d n + head) + 6 S d, for 512 tokens.
  const double active = 4 * 64 * 64 + 8 * 64 + 2 * 3 * 64 * 32 + 1000 * 64;
  EXPECT_NEAR(e.compute_ms, 1e3 * 512 * (6 * active + 6 * 128 * 64) / (989e12 * 0.55), 1e-9);
  // Norms are 2 D and the last one D.
  const double params = 1000 * 64 + 4 * 64 * 64 + 8 * 64 + 3 * 64 + 8 * 3 * 64 * 32;
  EXPECT_NEAR(e.update_ms, 1e3 * 28 * params / 3000e9, 1e-9);
}

TEST(Estimate, CommunicationIsBytesOverTheSlowestLink) {
  // Networks so slow that nothing hides them: all the bytes count, but for the time until the first of them leave.
  const Cluster slow{.nodes = 2, .gpus_per_node = 2, .node_gb_s = 1e-3, .network_gb_s = 1e-4, .comm_sms = 0};
  const auto all = estimate_layouts(slow, small_run());
  const double dense = 1000 * 64 + 4 * 64 * 64 + 8 * 64 + 3 * 64, experts = 8 * 3 * 64 * 32;
  // Expert degree 1: 3/4 of everything leaves each GPU, 2 of 3 parts to the other node.
  const Estimate& data = with_ep(all, 1);
  const double all_ms = 1e3 * 2 * (dense + experts) * 0.75 * (2.0 / 3) / (1e-4 * 1e9);
  EXPECT_NEAR(data.gradients_ms, all_ms, 1e-6 * all_ms);
  EXPECT_NEAR(data.values_ms, all_ms, 1e-6 * all_ms);
  EXPECT_EQ(data.experts_ms, 0);
  // In memory: gradients 2 * 3/4 + 1 + 1/4 times, values once; the wire is not hidden.
  EXPECT_NEAR(data.beside_ms, 1e3 * 2 * (dense + experts) * 3.75 / 3000e9, 1e-9);
  // Degree 2 within a node: rows to one other rank, three times; experts are replicated on the other node.
  const Estimate& two = with_ep(all, 2);
  EXPECT_NEAR(two.experts_ms, 1e3 * 3 * 512 * 2 * 64 / (1e-3 * 1e9), 1e-6);
  const double dense_ms = 1e3 * 2 * dense * 0.75 * (2.0 / 3) / (1e-4 * 1e9),
               expert_ms = 1e3 * 2 * (experts / 2) * 0.5 / (1e-4 * 1e9);
  EXPECT_NEAR(two.gradients_ms, dense_ms + expert_ms, 1e-6 * dense_ms);
}

// A layer's queries, keys, values and outputs, 2 x (4 + 4) heads of 16 for each of 256 tokens, forward and as gradients;
// half of them to the other GPU.
TEST(Estimate, GpusThatShareSequencesExchangeTheirHeads) {
  const Cluster slow{.nodes = 1, .gpus_per_node = 2, .memory_gb_s = 1e9, .node_gb_s = 1e-3, .comm_sms = 0};
  RunConfig run = small_run();
  const Estimate apart = with_ep(estimate_layouts(slow, run), 1);
  EXPECT_EQ(apart.context_ms, 0);
  run.mesh.cp = 2;
  const auto all = estimate_layouts(slow, run);
  const Estimate& shared = with_ep(all, 1);
  EXPECT_EQ(shared.data_ranks, 1);
  EXPECT_NEAR(shared.context_ms, 1e3 * 2 * 0.5 * 2 * (2 * 8 * 16) * 256 / (1e-3 * 1e9), 1e-6);
  EXPECT_NEAR(shared.compute_ms, 0.5 * apart.compute_ms, 1e-9);
  EXPECT_LT(shared.memory_gib, apart.memory_gib);
  const Estimate& again = *std::find_if(
      all.begin(), all.end(), [](const Estimate& e) { return e.ep == 1 && e.recompute == Recompute::kFull; });
  EXPECT_NEAR(again.context_ms, 1.5 * shared.context_ms, 1e-6);
  run.mesh.cp = 4;
  EXPECT_THROW(estimate_layouts(slow, run), Error);
}

// Three buckets of 10 ms forward and 20 ms backward each.
std::vector<BucketTimes> three(double update, double gradients, double values) {
  return std::vector<BucketTimes>(3, BucketTimes{10, 20, update, gradients, values});
}

TEST(Timeline, GradientsOfTheFirstBucketHaveNothingToHideBehind) {
  EXPECT_EQ(exposed_gradients(three(0, 0, 0)), 0);
  EXPECT_EQ(exposed_gradients(three(0, 5, 0)), 5);
  EXPECT_EQ(exposed_gradients(three(0, 20, 0)), 20) << "each bucket beside the next one's backward pass";
  EXPECT_EQ(exposed_gradients(three(0, 30, 0)), 20 + 3 * 30 - 60) << "one after the other from the first on";
  std::vector<BucketTimes> buckets = three(0, 0, 0);
  buckets[2].gradients = 50;  // the first that is complete
  EXPECT_EQ(exposed_gradients(buckets), 10);
}

TEST(Timeline, ValuesHideBehindOtherUpdatesAndTheForwardPass) {
  EXPECT_EQ(exposed_values(three(4, 0, 0), 7), 0);
  EXPECT_EQ(exposed_values(three(4, 0, 4), 0), 0) << "bucket 0 arrives while 1 is updated, 1 while 2 is";
  EXPECT_EQ(exposed_values(three(0, 0, 4), 0), 4) << "nothing to hide the first behind";
  EXPECT_EQ(exposed_values(three(0, 0, 4), 3), 1) << "but what others do not wait for";
  // Arrivals at 1 + 15, 31, 46; updates are over at 3: forward 16-26, 31-41, 46-56.
  EXPECT_EQ(exposed_values(three(1, 0, 15), 0), 56 - 3 - 30);
}

// Ten buckets: of the middle ones 1 to 4 have to come again, in turn with gradients; 5 to 8, the ends and the head are here.
TEST(Timeline, ShardedValuesComeAgainForTheBackwardPass) {
  EXPECT_EQ(exposed_backward(three(0, 5, 0)), exposed_gradients(three(0, 5, 0)));
  EXPECT_EQ(exposed_backward(three(0, 30, 9)), exposed_gradients(three(0, 30, 0)))
      << "three buckets are all here";
  EXPECT_EQ(exposed_backward(std::vector<BucketTimes>(10, {0, 20, 0, 0, 20})), 0)
      << "each beside another bucket";
  // Bucket 4's leave when 6 begins, at 60, and arrive at 110; then one after the other, each computed with for 20.
  EXPECT_EQ(exposed_backward(std::vector<BucketTimes>(10, {0, 20, 0, 0, 50})), 260 + 20 + 20 - 200);
}

// The lowest stage that fits; memory between 16 and 2 bytes a parameter and the rest.
TEST(Estimate, ShardsNoMoreThanFits) {
  RunConfig run = small_run();
  run.model.layers = 24;
  run.model.dim = 256;
  Cluster cluster{.nodes = 1, .gpus_per_node = 8, .memory_gib = 1000};
  const Estimate one = with_ep(estimate_layouts(cluster, run), 1);
  EXPECT_EQ(one.zero, 1);
  cluster.memory_gib = one.memory_gib - 1e-6;
  const Estimate two = with_ep(estimate_layouts(cluster, run), 1);
  EXPECT_EQ(two.zero, 2);
  EXPECT_EQ(two.step_ms(), one.step_ms()) << "one micro-batch sends as much";
  cluster.memory_gib = two.memory_gib - 1e-6;
  const Estimate three = with_ep(estimate_layouts(cluster, run), 1);
  EXPECT_EQ(three.zero, 3);
  EXPECT_GT(three.step_ms(), one.step_ms());
  EXPECT_TRUE(three.fits);
  cluster.memory_gib = three.memory_gib - 1e-6;
  EXPECT_FALSE(with_ep(estimate_layouts(cluster, run), 1).fits);
}

TEST(Estimate, TheFastestThatFitsComesFirst) {
  const auto all = estimate_layouts({.nodes = 4, .gpus_per_node = 8, .memory_gib = 1000}, small_run());
  for (size_t i = 1; i < all.size(); ++i) {
    EXPECT_TRUE(all[i].fits);
    EXPECT_LE(all[i - 1].step_ms(), all[i].step_ms());
  }
  for (const Estimate& e : estimate_layouts({.memory_gib = 1}, small_run())) EXPECT_FALSE(e.fits);
}

TEST(Estimate, ClusterFilesAreStrict) {
  testing::TempFolder folder;
  const auto file = folder.path() / "cluster.yaml";
  std::ofstream(file) << "nodes: 8\ngpus_per_node: 8\nmemory_gib: 141\n";
  EXPECT_EQ(read_cluster(file).gpus(), 64);
  std::ofstream(file, std::ios::app) << "netwrk_gb_s: 50\n";
  EXPECT_THROW(read_cluster(file), Error);
}

}  // namespace
}  // namespace cadre::trainer
