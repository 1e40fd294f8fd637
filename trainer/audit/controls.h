// Null controls: runs of the influence mixer on text that was tampered with, for which the right outcome is known.
//   permuted   documents have each other's labels: no domain differs, so the weights stay at the prior
//   duplicated one domain is there twice, under two names: both get the same
//   junk       one more domain of shuffled tokens: it ends lowest, below half of its prior
//   target     the target is one domain's held-out text: that domain gains most
// They go on from the audited moment's values: a model that has learnt nothing yet learns the frequencies of tokens from
// shuffled text as well as from any other. Text is cut into passages, each a document, because the mixer's error bars
// take documents for independent, and so does giving them each other's labels: a probe of a small run that reads one
// long document a domain sees that document's difference and not chance.
#pragma once

#include <string>
#include <vector>

#include "trainer/audit/control_run.h"
#include "trainer/audit/journal.h"
#include "trainer/audit/retrain.h"

namespace cadre::audit {

struct ControlsConfig {
  std::vector<int64_t> seeds = {1, 2, 3};
  std::string mixer = "{name: gim, period: 10}";
  int64_t passage = 32;  // documents are cut into passages of so many tokens, each a document; 0: whole
  study::Overrides set;  // for these runs, beside the audit's
  // Bounds of the first two, settled before any result. The weights are averages over the second half of a run.
  double permuted_distance = 0.05;  // largest total variation distance from the prior
  double duplicate_ratio = 0.15;    // largest difference of the two, over their mean
};
ControlsConfig read_controls(base::Section section);

// `checkpoint`: of the audited moment.
bool measure_controls(const ControlsConfig& config, const std::filesystem::path& checkpoint,
                      const AuditContext& context, Journal& journal, std::vector<ControlRun>& result);
// Whether the weights of a run are what the control expects; sets passed and measure. Pure.
void judge(const ControlsConfig& config, ControlRun& run);

}  // namespace cadre::audit
