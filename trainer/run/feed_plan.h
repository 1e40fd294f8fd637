// What a run's feed plans at a time, and how much in all: for the training step, and for `cadre plan`, which shows it.
#pragma once

#include <memory>
#include <string>

#include "data/mixer.h"
#include "data/planner.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

// Positions of the whole run: of text those of its sequences; of prompts those of as many as the run will draw.
int64_t planned_tokens(const RunConfig& config, const data::Corpus& corpus);
// Sequences of text to plan for an update: more than it trains on where a selector takes some away in the step.
int64_t planned_batch(const RunConfig& config);
// Updates that one plan serves: N of a run that samples, else 1.
int64_t updates_per_plan(const RunConfig& config);

data::MixerContext feed_context(const RunConfig& config, const data::Corpus& corpus);
// Its global_batch is what one plan holds: sequences, or the prompts of a round of sampling. Throws Error(kUsage) for
// data.shuffle: pieces of anything but text: what is an example for post-training stays whole.
data::PlannerConfig planner_config(const RunConfig& config, const data::Mixer& mixer,
                                   const data::Corpus& corpus);
// One line that says so where data.shuffle: documents makes a batch of few documents, each in many sequences; else empty.
std::string shuffle_advice(const RunConfig& config, const data::Corpus& corpus);
// Of pairs where the corpus has pairs.
std::unique_ptr<data::Curriculum> feed_curriculum(const RunConfig& config, const data::Corpus& corpus);

}  // namespace cadre::trainer
