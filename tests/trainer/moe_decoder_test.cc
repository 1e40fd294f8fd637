// The decoder with mixture-of-experts layers: gradients for every router, mixes of dense and expert layers,
// state, the numbers reported about it, and the same model over expert-parallel ranks.
#include <gtest/gtest.h>

#include <mutex>

#include "tests/trainer/model_fixture.h"

namespace cadre::trainer {
namespace {

moe::MoeConfig experts(const std::string& text) {
  return moe::read_moe(
      base::parse_run_text("moe: {num_experts: 4, top_k: 2, width: 6, " + text + "}", "test.yaml", {})
          .section("moe"));
}
const char* const kSoftmax =
    "z_loss: 0.1, router: {name: softmax_topk, normalize: true}, balance: {name: micro_batch, coef: 0.5}";

// Runs body on one rank, with a mesh.
void with_mesh(const std::function<void(comm::Mesh&)>& body) {
  comm::run_threads(1, [&](comm::World& world) {
    comm::Mesh mesh(world, {});
    body(mesh);
  });
}

ModelConfig layers(int count, int first_dense, int every) {
  ModelConfig c = small_config();
  c.layers = count;
  c.first_dense_layers = first_dense;
  c.moe_every = every;
  return c;
}

// One document a sequence. Equal documents would tie in expert choice, where the loss jumps.
Batch distinct_tokens() {
  Batch b = packed_batch(2, 24, 23);
  for (int64_t t = 0; t < b.num_tokens(); ++t) {
    if (b.segment[t] >= 0) b.segment[t] = 0;
    b.position[t] = int32_t(t % 24);
  }
  return b;
}

// Bits of the loss and the gradients, and the bytes kept from forward to backward.
struct Remade {
  double loss;
  std::vector<double> grads;
  size_t saved;
};
Remade remade(Recompute recompute, QkNorm qk_norm, const char* text) {
  Remade result{};
  with_mesh([&](comm::Mesh& mesh) {
    ModelConfig config = layers(4, 1, 2);  // dense, experts, dense, experts
    config.qk_norm = qk_norm;
    TestModel<double> m(config, experts(text), &mesh, {.recompute = recompute});
    for (int micro = 0; micro < 2; ++micro) result.loss = m.step(packed_batch(2, 24, 23, 1 + micro), true);
    result.grads = m.grads();
    result.saved = m.saved.bytes();
  });
  return result;
}

TEST(MoeDecoder, ActivationsMadeAgainGiveTheSameBitsAndTakeLessMemory) {
  for (const char* text :
       {kSoftmax, "num_shared: 1, z_loss: 0.1, router: {name: sigmoid_bias}, balance: {name: global_batch}",
        "z_loss: 0, router: {name: autonomy, rank: 3}, balance: none",
        "z_loss: 0, router: {name: expert_choice}, balance: none",
        "capacity_factor: 0.7, router: {name: softmax_topk}, balance: {name: previous_batch}"}) {
    for (const QkNorm qk_norm : {QkNorm::kNone, QkNorm::kHead, QkNorm::kFull}) {
      const Remade kept = remade(Recompute::kNone, qk_norm, text);
      size_t least = kept.saved;
      for (const Recompute recompute : {Recompute::kSelective, Recompute::kFull}) {
        const Remade other = remade(recompute, qk_norm, text);
        EXPECT_EQ(other.loss, kept.loss) << text;
        EXPECT_EQ(other.grads, kept.grads) << text << ", " << recompute_name(recompute);
        EXPECT_LT(other.saved, least) << recompute_name(recompute);
        least = other.saved;
      }
    }
  }
}

TEST(MoeDecoder, GradientOfEveryRowEqualsCentralDifferencesForEveryRouter) {
  for (const char* text :
       {kSoftmax,
        "z_loss: 0, router: {name: softmax_topk, normalize: false}, balance: {name: sequence, coef: 0.5}",
        "num_shared: 1, z_loss: 0.1, router: {name: sigmoid_bias}, balance: {name: global_batch, coef: 0.5}",
        "z_loss: 0, router: {name: expert_choice}, balance: none",
        "z_loss: 0, router: {name: autonomy, rank: 3}, balance: none",
        "z_loss: 0.1, capacity_factor: 0.7, router: {name: softmax_topk}, balance: {name: previous_batch, "
        "coef: 0.5}"}) {
    with_mesh([&](comm::Mesh& mesh) {
      TestModel<double> m(layers(2, 0, 1), experts(text), &mesh);
      check_gradients(m, distinct_tokens(), text);
    });
  }
}

TEST(MoeDecoder, DenseAndExpertLayersMix) {
  const Batch batch = packed_batch(2, 24, 23);
  with_mesh([&](comm::Mesh& mesh) {
    for (const auto& [first, every, expected] :
         {std::tuple{1, 1, std::vector{1, 2, 3}}, {0, 2, std::vector{0, 2}}, {1, 2, std::vector{1, 3}}}) {
      TestModel<double> m(layers(4, first, every), experts(kSoftmax), &mesh);
      std::vector<int> found;
      for (int i = 0; i < 4; ++i) {
        const bool has_experts = m.table.find(fmt::format("layers.{}.moe.experts.w_gate", i)) >= 0;
        EXPECT_NE(has_experts, m.table.find(fmt::format("layers.{}.ffn.w_gate", i)) >= 0);
        if (has_experts) found.push_back(i);
      }
      EXPECT_EQ(found, expected);
      EXPECT_EQ(m.model->moe_stats().size(), expected.size());
      check_gradients(m, batch, fmt::format("first {} every {}", first, every));
    }
  });
}

TEST(MoeDecoder, PaddingIsNeverRouted) {
  with_mesh([](comm::Mesh& mesh) {
    TestModel<double> m(layers(2, 1, 1), experts(kSoftmax), &mesh);
    Batch batch = packed_batch(2, 24, 23);
    m.step(batch, true);
    const BatchCounts counts = counts_of(batch);
    double slots = 0;
    const std::vector<moe::MoeStats> stats = m.model->moe_stats();
    for (double x : stats[0].expert_tokens) slots += x;
    EXPECT_EQ(slots, 2 * counts.real_tokens);
    std::fill(batch.segment.begin(), batch.segment.end(), -1);
    std::fill(batch.loss_mask.begin(), batch.loss_mask.end(), 0.0f);
    m.store->zero_grads();
    EXPECT_EQ(m.step(batch, true), 0);
    for (double g : m.grads()) ASSERT_EQ(g, 0);
  });
}

TEST(MoeDecoder, CountsTheExpertsOfOneTokenAsActive) {
  with_mesh([](comm::Mesh& mesh) {
    ModelConfig c = layers(3, 1, 1);
    TestModel<float> m(c, experts("num_shared: 2"), &mesh);
    const int64_t attention = 12 * 16 + 2 * 12 * 8 + 16 * 12, dense = 3 * 12 * 10, head = 23 * 12;
    const int64_t expert = 3 * 12 * 6, router = 4 * 12;
    EXPECT_EQ(m.model->active_params(),
              3 * attention + dense + 2 * (4 * expert + router) + head);  // 2 chosen, 2 shared
  });
}

TEST(MoeDecoder, StateOfRoutersIsSavedByGlobalNameAndRestored) {
  with_mesh([](comm::Mesh& mesh) {
    const auto config = experts("router: {name: sigmoid_bias, bias_update_rate: 0.1}, balance: none");
    TestModel<float> m(layers(3, 1, 1), config, &mesh), other(layers(3, 1, 1), config, &mesh);
    m.model->after_step({{5, 1, 1, 1}, {1, 1, 1, 9}});
    const moe::StateDict state = m.model->save_state();
    ASSERT_FALSE(state.empty());
    bool first = false, second = false;
    for (const auto& [name, values] : state) {
      first = first || name.starts_with("layers.1.moe.");
      second = second || name.starts_with("layers.2.moe.");
    }
    EXPECT_TRUE(first && second);
    const Batch batch = packed_batch(2, 24, 23);
    const auto run = [&](TestModel<float>& model) {
      const auto logp = model.model->forward(batch, false);
      return std::vector<float>(logp.begin(), logp.end());
    };
    EXPECT_NE(run(m), run(other));
    other.model->load_state(state);
    EXPECT_EQ(run(m), run(other));
    EXPECT_EQ(other.model->save_state(), state);
  });
}

TEST(MoeDecoder, OnlyCausalRoutersGenerate) {
  with_mesh([](comm::Mesh& mesh) {
    TestModel<float> choosing(layers(2, 1, 1), experts("router: expert_choice, balance: none"), &mesh);
    EXPECT_FALSE(choosing.model->causal());
    EXPECT_TRUE(choosing.model->split_dependent());
    EXPECT_THROW(choosing.model->make_cache(8), Error);

    TestModel<double> m(layers(2, 1, 1), experts(kSoftmax), &mesh);
    EXPECT_TRUE(m.model->causal());
    const Batch batch = packed_batch(1, 24, 23);
    auto cache = m.model->make_cache(24);
    Batch one = batch;  // one document, so that the full forward sees what generation sees
    for (int64_t t = 0; t < 24; ++t) {
      one.segment[t] = 0;
      one.position[t] = int32_t(t);
      one.loss_mask[t] = 1;
    }
    const auto view = m.model->forward(one, false);
    const std::vector<double> logp(view.begin(), view.end());
    for (int64_t t = 0; t < 24; ++t) {
      const auto logits = m.model->extend(*cache, {one.tokens[t]});
      double sum = 0;
      for (double x : logits) sum += std::exp(x);
      EXPECT_NEAR(logits[one.targets[t]] - std::log(sum), logp[t], 1e-11);
    }
  });
}

// Rows [begin, begin + count) of a batch as a batch of its own.
Batch sequences(const Batch& all, int64_t begin, int64_t count) {
  Batch b;
  b.num_sequences = count;
  b.seq_len = all.seq_len;
  const auto part = [&](const auto& from) {
    return std::vector(from.begin() + begin * all.seq_len, from.begin() + (begin + count) * all.seq_len);
  };
  b.tokens = part(all.tokens);
  b.targets = part(all.targets);
  b.loss_mask = part(all.loss_mask);
  b.segment = part(all.segment);
  b.position = part(all.position);
  return b;
}

TEST(MoeDecoder, ExpertsOverTwoRanksGiveTheSameModel) {
  const Batch batch = packed_batch(2, 24, 23);
  const std::vector<double> dlogp(batch.loss_mask.begin(), batch.loss_mask.end());
  const auto config = experts("z_loss: 0.1, balance: {name: global_batch, coef: 0.5}");
  const auto run = [&](TestModel<double>& m, const Batch& part, const double* grad) {
    m.model->begin_step();
    const auto logp = m.model->forward(part, true);
    std::vector<double> kept(logp.begin(), logp.end());
    m.model->backward({grad, {part.num_tokens()}}, counts_of(batch), [](int) {});
    return kept;
  };
  std::vector<double> logp, dense, expert;
  with_mesh([&](comm::Mesh& mesh) {
    TestModel<double> m(layers(2, 1, 1), config, &mesh);
    logp = run(m, batch, dlogp.data());
    dense.assign(m.store->grads(device::Group::kDense).begin(), m.store->grads(device::Group::kDense).end());
    const int row = m.table.find("layers.1.moe.experts.w_down");
    for (int64_t i = 0; i < m.layout->at(row).count; ++i) expert.push_back(m.grad(row, i));
  });
  std::mutex mutex;
  std::vector<double> dense_sum(dense.size(), 0);
  comm::run_threads(2, [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = 2});
    TestModel<double> m(layers(2, 1, 1), config, &mesh, {.max_sequences = 1});
    const int64_t rank = world.rank();
    const std::vector<double> part = run(m, sequences(batch, rank, 1), dlogp.data() + rank * 24);
    const std::lock_guard lock(mutex);
    for (int64_t t = 0; t < 24; ++t) EXPECT_NEAR(part[t], logp[rank * 24 + t], 1e-12);
    const auto flat = m.store->grads(device::Group::kDense);
    for (size_t i = 0; i < dense.size(); ++i) dense_sum[i] += flat[i];
    const int row = m.table.find("layers.1.moe.experts.w_down");
    const device::Placement& place = m.layout->at(row);
    for (int64_t i = 0; i < place.count; ++i)
      EXPECT_NEAR(m.grad(row, i), expert[place.global_begin + i], 1e-11);
  });
  for (size_t i = 0; i < dense.size(); ++i) ASSERT_NEAR(dense_sum[i], dense[i], 1e-11);
}

}  // namespace
}  // namespace cadre::trainer
