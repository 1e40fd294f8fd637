// The run file is strict, and what is written out reads back as the same run.
#include "parallel/device/accelerator.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/run/feed_plan.h"

namespace cadre::trainer {
namespace {

std::string error_of(const std::vector<std::string>& overrides) {
  try {
    testing::tiny_run(overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage) << error.what();
    return error.what();
  }
  return "";
}

TEST(RunFile, MistakesAreNamedWithTheirKey) {
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"train.steps=many", "train.steps"},              // wrong type
      {"train.global_batch=-4", "train.global_batch"},  // negative size
      {"data.seq_len=0", "data.seq_len"},
      {"train.stepz=3", "did you mean"},  // unknown key, near a known one
      {"colour=blue", "colour"},
      {"data.verify=never", "always"},
      {"data.shuffle=rows", "pieces"},
      {"optim.betas=[0.9]", "betas"},
      {"optim.learning_rate=1", "learning_rate"},
      {"schedule.name=cosin", "cosine"},
      {"mixer={name: natural, tau: 2}", "tau"},
      {"moe.router={name: softmax_topk, normalise: true}", "normalise"},
      {"mesh.cp=0", "cp"},
      {"mesh.cp=3", "data.seq_len is 16 and mesh.cp 3"},
      {"log.tensorbord=true", "tensorboard"},
      {"device=gpu", "cuda"},
      {"train.steps=9223372036854775807", "train.steps x train.global_batch x data.seq_len"},
  };
  for (const auto& [change, named] : mistakes) {
    const std::string message = error_of({change});
    EXPECT_NE(message.find(named), std::string::npos) << change << " gave: '" << message << "'";
  }
}

TEST(RunFile, ResolvedFileReadsBackAsItself) {
  for (const std::vector<std::string>& overrides :
       {std::vector<std::string>{},
        {"optim={name: muon, lr: 0.01}", "train.max_minutes=2.5", "moe.drop=position",
         "model.norm_eps=1.0e-6", "data.shuffle=pieces"}}) {
    const std::string text = resolved_yaml(testing::tiny_run(overrides));
    EXPECT_EQ(resolved_yaml(read_run(base::parse_run_text(text, "resolved.yaml", {}))), text);
  }
}

TEST(RunFile, DefaultsNeedNoSections) {
  const RunConfig config = read_run(base::parse_run_text("seed: 3", "short.yaml", {}));
  EXPECT_FALSE(config.moe.has_value());
  EXPECT_EQ(resolved_yaml(read_run(base::parse_run_text(resolved_yaml(config), "r.yaml", {}))),
            resolved_yaml(config));
}

TEST(Shuffle, PiecesAreOfTextAndOfNothingElse) {
  const std::vector<data::MemoryDocument> two = {{0, {0, 5, 1}, 3}, {0, {0, 6, 1}, 3}};
  const RunConfig pieces = testing::tiny_run({"data.shuffle=pieces"}), plain = testing::tiny_run({});
  for (const data::SetKind set : {data::SetKind::kText, data::SetKind::kInstruction,
                                  data::SetKind::kPreference, data::SetKind::kPrompts}) {
    const auto corpus = data::make_memory_corpus({"a"}, two, set);
    const auto mixer = data::make_mixer(kind(plain, plain.mixer, "mixer"), feed_context(plain, *corpus));
    EXPECT_FALSE(planner_config(plain, *mixer, *corpus).pieces);
    try {
      EXPECT_TRUE(planner_config(pieces, *mixer, *corpus).pieces);
      EXPECT_EQ(set, data::SetKind::kText);
    } catch (const Error& e) {
      EXPECT_NE(set, data::SetKind::kText);
      EXPECT_EQ(e.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(e.what()).find("data.shuffle"), std::string::npos) << e.what();
    }
  }
}

TEST(Shuffle, OfLongDocumentsIsSpokenOf) {
  const auto advice = [](size_t tokens, const std::vector<std::string>& overrides) {
    const data::MemoryDocument one{0, std::vector<int32_t>(tokens, 5), 3};
    return shuffle_advice(testing::tiny_run(overrides), *data::make_memory_corpus({"a"}, {one, one}));
  };
  EXPECT_EQ(advice(65, {}), "");  // four sequences
  EXPECT_NE(advice(129, {}).find("8.0 sequences"), std::string::npos) << advice(129, {});
  EXPECT_NE(advice(33, {"data.seq_len=4"}).find("have 32 tokens"), std::string::npos);
  EXPECT_EQ(advice(129, {"data.shuffle=pieces"}), "");
}

TEST(Vocab, ComesFromTheTokenizerAndMustHoldIt) {
  RunConfig config = testing::tiny_run({});
  set_vocab(config, 77);
  EXPECT_EQ(config.model.vocab, 77);
  RunConfig padded = testing::tiny_run({"model.vocab=128"});
  set_vocab(padded, 77);
  EXPECT_EQ(padded.model.vocab, 128);
  RunConfig small = testing::tiny_run({"model.vocab=16"});
  EXPECT_THROW(set_vocab(small, 77), Error);
  // What the file does not say is not said to be its mistake.
  RunConfig given = testing::tiny_run({"model.vocab=16", "init=there"});
  try {
    set_vocab(given, 77);
    FAIL() << "a tokenizer that is too large was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the model of init, there, has a vocabulary of 16"),
              std::string::npos)
        << error.what();
  }
}

// A checkpoint of a GPU's run must be readable without one, so that only its use is refused.
TEST(Device, CudaIsRefusedWhenItIsNotThere) {
  for (const device::Accelerator& entry : device::accelerators()) {
    if (entry.probe().num_devices > 0) GTEST_SKIP() << "a GPU is there";
  }
  const Dataset dataset = testing::tiny_dataset();
  comm::run_threads(1, [&](comm::World& world) {
    EXPECT_THROW(TrainState(testing::tiny_run({"device=cuda"}), dataset, world), Error);
    EXPECT_NO_THROW(TrainState(testing::tiny_run({"device=auto"}), dataset, world));
  });
}

TEST(Threads, ShareTheHostUnlessGiven) {
  RunConfig config = testing::tiny_run({"threads=0"});
  EXPECT_GE(threads_per_rank(config, 1000), 1);
  config.threads = 3;
  EXPECT_EQ(threads_per_rank(config, 1), 3);
}

}  // namespace
}  // namespace cadre::trainer
