// `cadre audit`: checks an influence estimator on one run, part by part, and writes a report. Every measurement is kept
// as it is made, so that an audit that was stopped goes on where it was. A process makes the parts that it was asked
// for; its report is of all parts of the file, as far as anybody has measured them.
#pragma once

#include "trainer/audit/audit_config.h"

namespace cadre::audit {

// Returns kOk or kStopped. One rank; `dataset` is for tests, null opens the run's manifest.
ExitCode run_audit(const AuditConfig& config, comm::World& world, const trainer::Dataset* dataset = nullptr);

}  // namespace cadre::audit
