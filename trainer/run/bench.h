// How fast a training step is, against the SGEMM peak of the same cores at the same time.
#pragma once

#include <string>
#include <vector>

#include "trainer/run/dataset.h"
#include "trainer/run/memory_plan.h"

namespace cadre::trainer {

struct PeakSample {
  int64_t n = 0;  // of the n x n x n product
  int threads = 1;
  double best_flops = 0;
};
struct BenchResult {
  std::vector<double> step_seconds;  // sorted
  std::vector<PeakSample> peaks;     // of this rank
  int64_t tokens = 0;                // of a step, padding left out, all ranks
  int64_t active_params = 0, params = 0;
  double flops_per_token = 0;  // forward and backward
  double peak_flops = 0;       // best sample, summed over ranks
  int ranks = 1, threads = 1;
  double data_wait_ms = 0;            // a step, mean
  MemoryPlan plan;                    // of rank 0
  size_t activations[3] = {0, 0, 0};  // bytes with each of kRecomputes
  size_t gpu_bytes = 0;               // in use on the GPU after the last step; 0 on the CPU
  double median_seconds() const { return step_seconds[step_seconds.size() / 2]; }
  double flops() const { return flops_per_token * double(tokens) / median_seconds(); }
};

// Random tokens in documents of one sequence each, for a run file without a manifest; model.vocab says how
// many ids.
Dataset random_dataset(const RunConfig& config);
// config.train.steps timed steps after two that warm up. Peaks are measured between steps, so that a machine
// whose speed drifts (heat, neighbours) drifts for both. Collective.
BenchResult bench_steps(const RunConfig& config, const Dataset& dataset, comm::World& world);

}  // namespace cadre::trainer
