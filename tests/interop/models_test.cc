// Every family and rotary rule against the numbers of transformers: logits, loss and all its gradients.
#include <algorithm>
#include <cmath>

#include "tests/interop/interop_fixture.h"
#include "trainer/interop/architecture.h"

namespace cadre::interop {
namespace {

using testing::golden_folder;

// |a - b| <= 1e-4 (|b| + rms of b): float32 on both sides, sums in another order.
void expect_close(std::span<const float> found, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  double squares = 0, worst = 0;
  for (const float x : expected) squares += double(x) * x;
  const double rms = std::sqrt(squares / double(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double scale = std::abs(double(expected[i])) + rms;
    ASSERT_LE(std::abs(double(found[i]) - expected[i]), 1e-4 * scale)
        << what << "[" << i << "]: " << found[i] << ", expected " << expected[i];
    worst = std::max(worst, std::abs(double(found[i]) - expected[i]) / scale);
  }
  EXPECT_GT(rms, 0) << what << " says nothing";
  ::testing::Test::RecordProperty(what, fmt::format("{:.1e}", worst));
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  Golden() : file_(golden_folder(GetParam()) / "golden.safetensors") {
    const auto& shape = file_.tensors().at("logits").shape;
    sequences_ = shape[0];
    length_ = shape[1];
    vocab_ = shape[2];
    for (const float t : testing::golden_tensor(file_, "tokens")) tokens_.push_back(int32_t(t));
    testing::import_to(golden_folder(GetParam()), folder_ / "ckpt");
  }
  // Runs `body` on the imported model.
  template <class Body>
  void with_model(const Body& body) {
    comm::run_threads(1, [&](comm::World& world) {
      testing::LoadedCheckpoint model(folder_ / "ckpt", world, length_, sequences_);
      body(*model);
    });
  }

  testing::TempFolder folder_;
  SafetensorsFile file_;
  int64_t sequences_ = 0, length_ = 0, vocab_ = 0;
  std::vector<int32_t> tokens_;
};

TEST_P(Golden, LogitsEqualThoseOfTransformers) {
  const std::vector<float> expected = testing::golden_tensor(file_, "logits");
  with_model([&](trainer::ModelState& model) {
    for (int64_t s = 0; s < sequences_; ++s) {
      auto cache = model.decoder.make_cache(length_);
      for (int64_t t = 0; t < length_; ++t) {
        const auto logits = model.decoder.extend(*cache, {tokens_[size_t(s * length_ + t)]});
        const auto row = expected.begin() + (s * length_ + t) * vocab_;
        expect_close({logits.data(), size_t(vocab_)}, {row, row + vocab_}, fmt::format("logits {} {}", s, t));
      }
    }
  });
}

TEST_P(Golden, LossAndGradientsEqualThoseOfTransformers) {
  with_model([&](trainer::ModelState& model) {
    const Batch batch = testing::whole_batch(sequences_, length_, tokens_);
    const BatchCounts counts = testing::counts_of(batch);
    model.store.start_grads(model.queue);
    model.decoder.begin_step();
    const auto logp = model.decoder.forward(batch, true);
    double loss = 0;
    std::vector<float> dlogp;
    for (int64_t t = 0; t < batch.num_tokens(); ++t) {
      dlogp.push_back(batch.loss_mask[size_t(t)] ? float(-1.0 / double(counts.trained_tokens)) : 0.0f);
      loss += double(dlogp.back()) * logp[t];
    }
    EXPECT_NEAR(loss, testing::golden_tensor(file_, "loss")[0], 1e-5);
    model.decoder.backward({dlogp.data(), {batch.num_tokens()}}, counts, [](int) {});

    const Architecture& architecture = architecture_for(model.config.model, model.config.moe);
    size_t compared = 0;
    for (const TensorLink& link : tensor_links(architecture, model.table)) {
      const device::Placement& place = model.layout.at(link.row);
      const float* grad = model.store.grads(place.group).data() + place.offset + link.begin;
      expect_close({grad, size_t(link.numel())}, testing::golden_tensor(file_, "grad." + link.theirs),
                   link.theirs);
      ++compared;
    }
    EXPECT_EQ(compared + 3, file_.tensors().size()) << "every gradient of the file is compared";
  });
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::ValuesIn(testing::golden_names()),
                         [](const auto& info) { return info.param; });

TEST(GoldenFiles, AreAllThere) {
  EXPECT_EQ(testing::golden_names().size(), 14u);
}

}  // namespace
}  // namespace cadre::interop
