#include "trainer/run/context_check.h"

#include "data/mixer.h"
#include "data/selector.h"
#include "optim/objective.h"

namespace cadre::trainer {
namespace {

// Whatever reads whole sequences, or batches of its own, beside the step.
std::string whole_sequences(const RunConfig& c) {
  const auto objective = optim::make_objective<float>(kind(c, c.objective, "objective"))->inputs();
  const data::MixerContext made_up = {{"a", "b"}, {int64_t(1) << 40, int64_t(1) << 40}, 1, 0, true};
  const data::Needs needs = data::make_mixer(kind(c, c.mixer, "mixer"), made_up)->needs();
  if (c.rollout) return "rollout samples whole sequences";
  if (objective.pairs) return "objective.name compares whole sequences";
  if (c.influence.period > 0)
    return fmt::format("influence.period is {}: influence reads whole sequences", c.influence.period);
  if (needs == data::Needs::kInfluence) return "mixer.name asks for influence, which reads whole sequences";
  if (data::make_selector(kind(c, c.selector, "selector"))->online())
    return "selector.name selects while the model trains, and scores whole sequences";
  return "";
}

}  // namespace

void check_context(const RunConfig& config) {
  const int cp = config.mesh.cp;
  if (cp == 1) return;
  require(
      config.data.seq_len % cp == 0, ExitCode::kUsage,
      "{}: data.seq_len is {} and mesh.cp {}: {} ranks share a sequence in equal parts; make data.seq_len a "
      "multiple of mesh.cp",
      config.source, config.data.seq_len, cp, cp);
  const std::string reader = whole_sequences(config);
  require(reader.empty(), ExitCode::kUsage,
          "{}: mesh.cp is {} and {}, of which a rank then has parts; set mesh.cp: 1", config.source, cp,
          reader);
}

}  // namespace cadre::trainer
