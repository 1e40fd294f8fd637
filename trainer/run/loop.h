// A whole training run: resume, steps, evaluations, checkpoints, metrics, and the ways to end.
#pragma once

#include "parallel/base/errors.h"
#include "trainer/run/console.h"
#include "trainer/run/dataset.h"

namespace cadre::trainer {

struct TrainOptions {
  ProgressStyle progress = ProgressStyle::kNone;  // on rank 0's standard output
  bool measure_peak = true;                       // SGEMM peak at the start (under a second), for mfu
  std::string commit = {};                        // of the program, for environment.json; may be empty
};

// Trains config.train.steps steps, going on from the newest whole checkpoint in config.out, and returns kOk,
// or kStopped when a signal asked to stop. Collective over the world.
ExitCode train(const RunConfig& config, const Dataset& dataset, comm::World& world,
               const TrainOptions& options);

}  // namespace cadre::trainer
