#include "trainer/run/expert_shares.h"

#include <string>

#include "data/mixer.h"
#include "data/selector.h"

namespace cadre::trainer {
namespace {

std::string obstacle(const RunConfig& c) {
  if (kind(c, c.optim, "optim").text("name", "adamw") == "muon")
    return "optim.name is muon, which needs an expert's whole matrices on one rank";
  if (c.rollout) return "rollout sends whole experts to the ranks that sample";
  const data::MixerContext made_up = {{"a", "b"}, {int64_t(1) << 40, int64_t(1) << 40}, 1, 0, true};
  const data::Needs needs = data::make_mixer(kind(c, c.mixer, "mixer"), made_up)->needs();
  if (c.influence.period > 0 || needs == data::Needs::kInfluence)
    return "influence looks at gradients of whole experts";
  if (data::make_selector(kind(c, c.selector, "selector"))->online())
    return "selector.name selects while the model trains, by gradients of whole experts";
  if (c.moe->rebalance > 0) return "moe.rebalance moves whole experts";
  return "";
}

}  // namespace

void settle_expert_shares(RunConfig& config) {
  if (!config.moe || config.mesh.ep == 1 || config.moe->shares == moe::ExpertShares::kExperts) return;
  const std::string why = obstacle(config);
  if (why.empty()) return;
  require(config.moe->shares != moe::ExpertShares::kWidth, ExitCode::kUsage,
          "{}: moe.shares is width, but {}; leave one of the two out", config.source, why);
  config.moe->shares = moe::ExpertShares::kExperts;
}

}  // namespace cadre::trainer
