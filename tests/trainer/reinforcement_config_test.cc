// Which run files train on samples, and what is refused.
#include "tests/trainer/reinforcement_fixture.h"

namespace cadre::trainer {
namespace {

using testing::rl::kRun;
using testing::rl::problems;
using testing::rl::rl_run;

TEST(ReinforcementConfig, IsVespoUnlessTheFileNamesAnother) {
  std::string text = kRun;
  text.erase(text.find("objective:"), text.find("mixer:") - text.find("objective:"));
  const auto resolved = [&](const std::vector<std::string>& overrides) {
    return YAML::Load(resolved_yaml(read_run(base::parse_run_text(text, "rl.yaml", overrides))))["objective"];
  };
  EXPECT_EQ(resolved({})["name"].as<std::string>(), "vespo");
  const YAML::Node own = resolved({"objective={positive: [1, 2]}"});
  EXPECT_EQ(own["name"].as<std::string>(), "vespo");
  EXPECT_EQ(own["positive"][1].as<int>(), 2);
  EXPECT_EQ(resolved({"objective=grpo"}).as<std::string>(), "grpo");
}

TEST(ReinforcementConfig, RefusesWhatNeedsTextThatStands) {
  const auto message = [](const std::string& override) {
    const std::vector<std::string> overrides = {override};
    const Dataset set = problems(rl_run(overrides));
    std::string text;
    comm::run_threads(1, [&](comm::World& world) {
      try {
        TrainState state(rl_run(overrides), set, world);
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::kUsage);
        text = e.what();
      }
    });
    return text;
  };
  EXPECT_NE(message("selector={name: rho1, reference: here}").find("samples its own"), std::string::npos);
  EXPECT_NE(message("influence.period=2").find("prompts have no answers"), std::string::npos);
}

TEST(ReinforcementConfig, RefusesWhatCannotBeTrainedOn) {
  const Dataset set = problems(rl_run({}));
  comm::run_threads(1, [&](comm::World& world) {
    for (const char* bad : {"rollout.group=1", "rollout.temperature=0.7", "rollout.top_p=0.9",
                            "train.global_batch=18", "objective=cross_entropy", "data.seq_len=30"})
      EXPECT_THROW(TrainState(rl_run({bad}), set, world), Error) << bad;
    const Dataset text = testing::tiny_dataset();
    EXPECT_THROW(TrainState(rl_run({}), text, world), Error);
    EXPECT_THROW(TrainState(testing::tiny_run({"data.seq_len=48"}), set, world), Error);
  });
  EXPECT_THROW(rl_run({"rollout.grup=4"}), Error);
  EXPECT_THROW(rl_run({"rollout.overlong_buffer=9"}), Error);
  EXPECT_THROW(rl_run({"tasks.levels=[7]"}), Error);
  EXPECT_THROW(rl_run({"reward.name=exact"}), Error);
}

TEST(ReinforcementConfig, ConversationsOfATaskAreFineTunedOnTheirAnswers) {
  std::string text = kRun;
  text.erase(text.find("reward:"), text.find("objective:") - text.find("reward:"));
  const RunConfig config =
      read_run(base::parse_run_text(text, "sft.yaml", {"objective=cross_entropy", "data.pack=true"}));
  const Dataset set = problems(config);
  comm::run_threads(1, [&](comm::World& world) {
    TrainState state(read_run(base::parse_run_text(text, "sft.yaml", {"objective=cross_entropy"})), set,
                     world);
    const StepReport report = train_step(state, {});
    EXPECT_LE(report.counts.trained_tokens, 16 * 5) << "a space, at most three characters and eos each";
    EXPECT_GE(report.counts.trained_tokens, 16 * 3);
  });
}

}  // namespace
}  // namespace cadre::trainer
