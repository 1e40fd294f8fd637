// Training runs of an audit: on other data, under other seeds or mixes.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "trainer/run/dataset.h"
#include "trainer/study/study_config.h"

namespace cadre::audit {

// What the parts of an audit share.
struct AuditContext {
  // The audited run's file with some more keys.
  std::function<trainer::RunConfig(const study::Overrides&)> configure;
  const trainer::Dataset& dataset;
  comm::World& world;
  std::filesystem::path out;
  std::function<bool()> keep_going;  // false: somebody asked to stop
};

// Trains to the end in out/runs/<name>, going on from a checkpoint there, and returns the held-out loss by domain;
// nothing when it was asked to stop. `inspect` sees the run's folder before that is removed.
std::optional<std::map<std::string, double>> retrain(
    const AuditContext& context, const std::string& name, const trainer::Dataset& dataset,
    const study::Overrides& more, const std::function<void(const std::filesystem::path&)>& inspect = {});

// A dataset that trains on `train` and otherwise is the audit's; `target` may be null. The audit's is borrowed.
trainer::Dataset with_training_text(const trainer::Dataset& dataset, std::unique_ptr<data::Corpus> train,
                                    std::unique_ptr<data::Corpus> target);

}  // namespace cadre::audit
