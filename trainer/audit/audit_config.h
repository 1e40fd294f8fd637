// The `audit` section of a study file: what an influence estimator is checked against, on one run.
//
//   audit:
//     base: study-small.yaml     # the run whose influence is audited; its path is relative to this file
//     out: runs/audit
//     set: {train.steps: 400}
//     at: 0.5                    # share of the run's steps after which it is audited
//     parts: [oracle, lds]       # made by this process, for several on one GPU; left out: all that follow
//     oracle: {}                 # each of these parts is made when its key is there
//     controls: {}
//     lds: {}
//     mixes: {}
#pragma once

#include <optional>

#include "trainer/audit/controls.h"
#include "trainer/audit/lds.h"
#include "trainer/audit/mixes.h"
#include "trainer/audit/oracle.h"
#include "trainer/study/study_config.h"

namespace cadre::audit {

struct AuditConfig {
  std::filesystem::path base;
  std::string out;
  study::Overrides set;
  double at = 0.5;
  std::vector<std::string> parts;
  std::optional<OracleConfig> oracle;
  std::optional<ControlsConfig> controls;
  std::optional<LdsConfig> lds;
  std::optional<MixesConfig> mixes;
  std::string settings;                              // the run, as text: what all results depend on
  std::map<std::string, std::string> part_settings;  // each part's section, as text
};
AuditConfig read_audit(base::Section section);

// The run file with the audit's keys and these, in that order.
trainer::RunConfig configure(const AuditConfig& audit, const study::Overrides& more);

}  // namespace cadre::audit
