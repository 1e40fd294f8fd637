// Pass rate of each prompt: the mean reward of sampled responses. Prompts that are never or always passed teach a policy
// nothing; a curriculum or a selector reads the column `pass_rate`.
#include "data/reward.h"
#include "data/tokenizer.h"
#include "parallel/base/rng.h"
#include "trainer/run/generate.h"
#include "trainer/selection/score_kind.h"

namespace cadre::trainer {
namespace {

class PassRates final : public ScoreKind {
 public:
  explicit PassRates(const ScoreInputs& in)
      : options_(*in.options),
        corpus_(*in.corpus),
        model_(*in.config, *in.world, 1, false),
        tokenizer_(data::load_tokenizer(in.tokenizer)),
        reward_(data::make_reward(
            base::parse_run_text("reward: " + options_.reward, "--reward", {}).section("reward"))) {
    require(corpus_.kind() == data::SetKind::kPrompts, ExitCode::kUsage,
            "--kind pass_rate needs a set of prompts (`cadre prepare --kind prompts`), found {}",
            data::name_of(corpus_.kind()));
    restore_model(model_, *in.reader);
  }

  std::vector<std::string> columns() const override { return {"pass_rate"}; }

  std::vector<std::vector<double>> score(int64_t begin, int64_t end) override {
    std::vector<double> rate;
    for (int64_t d = begin; d < end; ++d) {
      std::vector<int32_t> prompt(size_t(corpus_.document(d).length));
      corpus_.read(d, 0, prompt);
      const std::string text = tokenizer_->decode(prompt);
      std::vector<data::RewardRequest> requests;
      for (int64_t s = 0; s < options_.samples; ++s) {
        const SamplingConfig sampling{.temperature = options_.temperature,
                                      .seed = base::mix(base::mix(options_.seed, uint64_t(d)), uint64_t(s))};
        std::vector<int32_t> produced;
        generate(model_, prompt, options_.max_tokens, int32_t(tokenizer_->eos()), sampling,
                 [&](int32_t token) { produced.push_back(token); });
        requests.push_back({text, tokenizer_->decode(produced), corpus_.prompt(d).answer});
      }
      double sum = 0;
      for (const data::RewardResult& r : reward_->score(requests)) sum += r.value;
      rate.push_back(sum / double(options_.samples));
    }
    return {rate};
  }

 private:
  const ScoreOptions& options_;
  const data::Corpus& corpus_;
  ModelState model_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::unique_ptr<data::Reward> reward_;
};

}  // namespace

std::unique_ptr<ScoreKind> make_pass_rates(const ScoreInputs& inputs) {
  return std::make_unique<PassRates>(inputs);
}

}  // namespace cadre::trainer
