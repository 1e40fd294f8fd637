// Influence scores against things that are simpler: explicit gradients of one document at a time, finite
// differences along the direction, and themselves in other layouts.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "tests/trainer/model_fixture.h"
#include "trainer/influence/piece_scores.h"
#include "trainer/influence/score_tap.h"

namespace cadre::trainer {
namespace {

constexpr int64_t kVocab = 23, kLength = 24;

struct Case {
  std::string name;
  ModelConfig model;
  std::string experts;      // empty: dense
  bool by_document = true;  // false: a document's gradient depends on the others of its batch
};

ModelConfig with(const std::function<void(ModelConfig&)>& change) {
  ModelConfig c = small_config();
  change(c);
  return c;
}

// previous_batch: the balance loss of a token does not depend on the rest of the batch.
const std::string kBalanced = "z_loss: 0.1, balance: {name: previous_batch, coef: 0.5}, ";

std::vector<Case> cases() {
  const ModelConfig all = with([](ModelConfig& c) { c.first_dense_layers = 0, c.moe_every = 1; });
  const ModelConfig half = with([](ModelConfig& c) { c.first_dense_layers = 1, c.moe_every = 1; });
  return {
      {"tied head", with([](ModelConfig& c) { c.tie_head = true; }), ""},
      {"own head, norms by head", with([](ModelConfig& c) { c.tie_head = false, c.qk_norm = QkNorm::kHead; }),
       ""},
      {"norms of all heads", with([](ModelConfig& c) { c.qk_norm = QkNorm::kFull; }), ""},
      {"softmax", half, kBalanced + "router: {name: softmax_topk, normalize: true}"},
      {"shared expert, wide", all, kBalanced + "num_shared: 1, width: 20, router: {name: sigmoid_bias}"},
      {"autonomy", all, "z_loss: 0, balance: none, router: {name: autonomy, rank: 3}"},
      {"expert choice", all, "z_loss: 0, balance: none, router: expert_choice", false},
      {"global batch", all, "z_loss: 0.1, balance: {name: global_batch, coef: 0.5}", false},
      {"capacity", all, "z_loss: 0.1, capacity_factor: 0.7, balance: {name: micro_batch, coef: 0.5}", false},
  };
}

std::optional<moe::MoeConfig> experts(const std::string& text) {
  if (text.empty()) return std::nullopt;
  const std::string width = text.find("width") == std::string::npos ? "width: 6, " : "";
  return moe::read_moe(
      base::parse_run_text("moe: {num_experts: 4, top_k: 2, " + width + text + "}", "test.yaml", {})
          .section("moe"));
}

void with_mesh(int ranks, int ep, const std::function<void(comm::Mesh&)>& body) {
  comm::run_threads(ranks, [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = ep});
    body(mesh);
  });
}

// A model in double, a direction, and a tap along it. The direction is a function of the global element.
struct Rig {
  Rig(const Case& c, comm::Mesh& mesh, int64_t max_sequences = 4, bool mask = true)
      : m(c.model, experts(c.experts), &mesh,
          {.max_sequences = max_sequences, .seq_len = kLength, .mask_documents = mask}),
        direction(*m.layout, device::DeviceKind::kCpu, false),
        tap({.queue = &m.queue,
             .kernels = &device::cpu_kernels<double>(),
             .moe_kernels = &moe::moe_kernels<double>(device::DeviceKind::kCpu),
             .expert = &mesh.expert(),
             .max_tokens = max_sequences * kLength},
            direction) {
    for (int row = 0; row < int(m.table.rows().size()); ++row) {
      const device::Placement& place = m.layout->at(row);
      const base::Philox random(base::mix(77, base::hash_name(m.table.row(row).name)));
      for (int64_t i = 0; i < place.count; ++i) {
        direction.values(place.group)[place.offset + i] =
            0.1 * random.normal(uint64_t(place.global_begin + i));
      }
    }
  }

  // Weights of the log-probabilities by document and place, so that they follow a document into other batches.
  static std::vector<double> dlogp(const Batch& batch) {
    std::vector<double> out(size_t(batch.num_tokens()), 0.0);
    for (int64_t i = 0; i < batch.num_tokens(); ++i) {
      const size_t t = size_t(i);
      if (batch.loss_mask[t] == 0) continue;
      out[t] = 0.5 + base::Philox(9).uniform(uint64_t(batch.document[t]), uint64_t(batch.position[t]));
    }
    return out;
  }
  std::vector<double> forward(const Batch& batch, bool training) {
    m.model->begin_step();
    const auto logp = m.model->forward(batch, training);
    return {logp.begin(), logp.end()};
  }
  // Adds gradients and returns the scores of the batch's tokens.
  std::vector<double> scores(const Batch& batch, const BatchCounts& counts) {
    forward(batch, true);
    const std::vector<double> grad = dlogp(batch);
    m.model->backward(
        {grad.data(), {batch.num_tokens()}}, counts, [](int) {}, &tap);
    const auto found = tap.finish(batch.num_tokens());
    return {found.begin(), found.end()};
  }
  double gradient_along_direction() {
    double sum = 0;
    for (const device::Group g : {device::Group::kDense, device::Group::kExpert}) {
      const auto grads = m.store->grads(g), d = direction.values(g);
      for (int64_t i = 0; i < grads.size(); ++i) sum += grads[i] * d[i];
    }
    return sum;
  }
  void shift(double step) {
    for (const device::Group g : {device::Group::kDense, device::Group::kExpert}) {
      const auto values = m.store->values(g), d = direction.values(g);
      for (int64_t i = 0; i < values.size(); ++i) values[i] += step * d[i];
    }
  }

  TestModel<double> m;
  device::ParamStore<double> direction;
  ScoreTap<double> tap;
};

// Documents are numbered through the batch, so that each is one piece.
Batch documents_batch(int64_t sequences) {
  Batch b = packed_batch(sequences, kLength, kVocab);
  int64_t document = -1;
  for (int64_t t = 0; t < b.num_tokens(); ++t) {
    if (b.segment[size_t(t)] < 0) continue;
    if (t % kLength == 0 || b.segment[size_t(t)] != b.segment[size_t(t - 1)]) ++document;
    b.document[size_t(t)] = document;
    b.domain[size_t(t)] = int32_t((t / kLength) % 3);
  }
  return b;
}

// `count` tokens from `first` as a batch of one sequence of their own.
Batch alone(const Batch& all, int64_t first, int64_t count) {
  Batch b;
  b.num_sequences = 1;
  b.seq_len = count;
  const auto part = [&](const auto& from) {
    return std::vector(from.begin() + first, from.begin() + first + count);
  };
  b.tokens = part(all.tokens);
  b.targets = part(all.targets);
  b.loss_mask = part(all.loss_mask);
  b.position = part(all.position);
  b.domain = part(all.domain);
  b.document = part(all.document);
  b.segment.assign(size_t(count), all.segment[size_t(first)] < 0 ? -1 : 0);
  return b;
}

Batch sequences(const Batch& all, int64_t begin, int64_t count) {
  Batch b = alone(all, begin * all.seq_len, count * all.seq_len);
  b.num_sequences = count;
  b.seq_len = all.seq_len;
  b.segment.assign(all.segment.begin() + begin * all.seq_len,
                   all.segment.begin() + (begin + count) * all.seq_len);
  return b;
}

double largest(const std::vector<PieceScore>& pieces) {
  double most = 0;
  for (const PieceScore& p : pieces) most = std::max(most, std::abs(p.score));
  return most;
}

TEST(Influence, ScoresEqualExplicitGradientsOfEveryDocument) {
  const Batch batch = documents_batch(3);
  const BatchCounts counts = counts_of(batch);
  for (const Case& c : cases()) {
    if (!c.by_document) continue;
    with_mesh(1, 1, [&](comm::Mesh& mesh) {
      Rig rig(c, mesh);
      const auto pieces = piece_scores(batch, rig.scores(batch, counts), true);
      ASSERT_GT(pieces.size(), 9u);
      const double scale = largest(pieces);
      ASSERT_GT(scale, 1e-3) << c.name;
      for (const PieceScore& p : pieces) {
        rig.m.store->zero_grads();
        const Batch one = alone(batch, p.first, p.count);
        double tapped = 0;
        for (const double s : rig.scores(one, counts)) tapped += s;
        EXPECT_NEAR(p.score, rig.gradient_along_direction(), 1e-9 * scale)
            << c.name << ", document " << p.document;
        EXPECT_NEAR(p.score, tapped, 1e-9 * scale) << c.name << ", packing changes document " << p.document;
      }
    });
  }
}

TEST(Influence, ScoresEqualFiniteDifferencesAlongTheDirection) {
  const Batch batch = documents_batch(3);
  for (const Case& c : cases()) {
    if (!c.experts.empty() && c.experts.find("balance: none") == std::string::npos)
      continue;  // loss of logp alone
    with_mesh(1, 1, [&](comm::Mesh& mesh) {
      Rig rig(c, mesh);
      const std::vector<double> weight = Rig::dlogp(batch);
      const auto losses = [&](double step) {
        rig.shift(step);
        std::vector<double> logp = rig.forward(batch, false);
        rig.shift(-step);
        for (size_t t = 0; t < logp.size(); ++t) logp[t] *= weight[t];
        return piece_scores(batch, logp, true);
      };
      const auto pieces = piece_scores(batch, rig.scores(batch, counts_of(batch)), true);
      const double step = 1e-5, scale = largest(pieces);
      const auto above = losses(step), below = losses(-step);
      double sum = 0, expected = 0;
      for (size_t i = 0; i < pieces.size(); ++i) {
        const double difference = (above[i].score - below[i].score) / (2 * step);
        if (c.by_document) {
          EXPECT_NEAR(pieces[i].score, difference, 1e-6 * scale)
              << c.name << ", document " << pieces[i].document;
        }
        sum += pieces[i].score;
        expected += difference;
      }
      EXPECT_NEAR(sum, expected, 1e-6 * scale) << c.name;
    });
  }
}

TEST(Influence, ScoresAddUpToTheBatchGradientForEveryKindOfLayer) {
  const Batch batch = documents_batch(4);
  for (const Case& c : cases()) {
    with_mesh(1, 1, [&](comm::Mesh& mesh) {
      Rig rig(c, mesh);
      double sum = 0, size = 0;
      for (const double s : rig.scores(batch, counts_of(batch))) sum += s, size += std::abs(s);
      EXPECT_NEAR(sum, rig.gradient_along_direction(), 1e-11 * size) << c.name;
      EXPECT_GT(size, 1e-3);
    });
  }
}

// The sum over all documents cannot see a leak: it only moves a part of one score to another.
TEST(Influence, ADocumentsScoreDoesNotDependOnItsNeighbours) {
  const Case c = cases()[3];
  Batch batch = documents_batch(2);
  for (const bool masked : {true, false}) {
    with_mesh(1, 1, [&](comm::Mesh& mesh) {
      Rig rig(c, mesh, 4, masked);
      const auto before = piece_scores(batch, rig.scores(batch, counts_of(batch)), true);
      ASSERT_GT(before[0].count + before[1].count, 2);
      Batch changed = batch;  // all but the second document of the first sequence
      for (size_t t = 0; t < changed.tokens.size(); ++t) {
        if (changed.document[t] == 1 || changed.segment[t] < 0) continue;
        changed.tokens[t] = (changed.tokens[t] + 5) % int32_t(kVocab);
        changed.targets[t] = (changed.targets[t] + 3) % int32_t(kVocab);
      }
      const auto after = piece_scores(changed, rig.scores(changed, counts_of(changed)), true);
      const double scale = largest(before);
      EXPECT_GT(std::abs(after[0].score - before[0].score), 1e-4 * scale);
      if (masked) {
        EXPECT_NEAR(after[1].score, before[1].score, 1e-12 * scale);
      } else {
        EXPECT_GT(std::abs(after[1].score - before[1].score), 1e-4 * scale)
            << "the test would not see a leak";
      }
    });
  }
  // Without masks the unit is therefore the sequence.
  EXPECT_EQ(piece_scores(batch, std::vector<double>(size_t(batch.num_tokens()), 1.0), false).size(), 2u);
}

TEST(Influence, ScoresAreTheSameForAnyRanksAndExpertDegree) {
  const Batch batch = documents_batch(4);
  const BatchCounts counts = counts_of(batch);
  for (const Case& c : cases()) {
    if (!c.by_document || c.experts.empty()) continue;
    std::map<int64_t, double> expected;
    double scale = 0;
    with_mesh(1, 1, [&](comm::Mesh& mesh) {
      Rig rig(c, mesh);
      const auto pieces = piece_scores(batch, rig.scores(batch, counts), true);
      scale = largest(pieces);
      for (const PieceScore& p : pieces) expected[p.document] = p.score;
    });
    for (const auto& [ranks, ep] : {std::pair{2, 1}, {2, 2}, {4, 2}, {4, 4}}) {
      std::mutex mutex;
      size_t seen = 0;
      with_mesh(ranks, ep, [&, ep = ep](comm::Mesh& mesh) {
        const int64_t part = 4 / mesh.data().size(), rank = mesh.data().rank();
        Rig rig(c, mesh, part);
        const Batch own = sequences(batch, rank * part, part);
        const auto pieces = piece_scores(own, rig.scores(own, counts), true);
        const std::lock_guard lock(mutex);
        for (const PieceScore& p : pieces) {
          EXPECT_NEAR(p.score, expected.at(p.document), 1e-12 * scale) << c.name << ", ep " << ep;
        }
        seen += pieces.size();
      });
      EXPECT_EQ(seen, expected.size());
    }
  }
}

// Routers of a model stored in bf16 come this way.
TEST(Influence, AWideLayerScoresAsALinearOne) {
  const Case c = cases()[3];
  with_mesh(1, 1, [&](comm::Mesh& mesh) {
    Rig rig(c, mesh);
    int router = -1;
    for (int row = 0; row < int(rig.m.table.rows().size()); ++row) {
      if (rig.m.table.row(row).name.ends_with("router.weight")) router = row;
    }
    ASSERT_GE(router, 0);
    const int64_t rows = 17, in = c.model.dim, out = 4;
    std::vector<double> x, dy;
    for (int64_t i = 0; i < rows * in; ++i) x.push_back(base::Philox(1).normal(uint64_t(i)));
    for (int64_t i = 0; i < rows * out; ++i) dy.push_back(base::Philox(2).normal(uint64_t(i)));
    const device::View<const double, 2> a(x.data(), {rows, in}), b(dy.data(), {rows, out});
    rig.tap.on_linear(router, a, b, nullptr, {});
    const auto linear = rig.tap.finish(rows);
    const std::vector<double> expected(linear.begin(), linear.end());
    rig.tap.on_wide_linear(router, a, b);
    const auto wide = rig.tap.finish(rows);
    for (size_t t = 0; t < expected.size(); ++t) EXPECT_NEAR(wide[t], expected[t], 1e-12) << t;
  });
}

TEST(Influence, SumsByDomainCountDocumentsAndNotTheirPieces) {
  DocumentScores documents;
  add_pieces(std::vector<PieceScore>{{.document = 5, .domain = 1, .tokens = 2, .score = 3},
                                     {.document = 2, .domain = 0, .tokens = 1, .score = -1},
                                     {.document = 5, .domain = 1, .tokens = 1, .score = -1},
                                     {.document = 9, .domain = 1, .tokens = 4, .score = 0.5}},
             documents);
  const InfluenceSums sums = influence_sums(documents, 3);
  EXPECT_EQ(sums.pieces, (std::vector<double>{1, 2, 0}));
  EXPECT_EQ(sums.tokens, (std::vector<double>{1, 7, 0}));
  EXPECT_EQ(sums.tokens2, (std::vector<double>{1, 25, 0}));
  EXPECT_EQ(sums.score, (std::vector<double>{-1, 2.5, 0}));
  EXPECT_EQ(sums.score2, (std::vector<double>{1, 4.25, 0}));
  EXPECT_EQ(sums.score_tokens, (std::vector<double>{-1, 8, 0}));
}

}  // namespace
}  // namespace cadre::trainer
