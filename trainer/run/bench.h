// How fast a training step is, against the SGEMM peak of the same cores at the same time.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/imitated_wire.h"
#include "trainer/run/dataset.h"
#include "trainer/run/memory_plan.h"

namespace cadre::trainer {

class TrainState;

struct PeakSample {
  int64_t n = 0;  // of the n x n x n product
  int threads = 1;
  double best_flops = 0;
};
// Of a checkpoint: from its start until it is in place, with training going on.
struct SaveCost {
  double seconds = 0;
  int64_t steps = 0;        // in that time
  double gib = 0;           // of all ranks
  double step_seconds = 0;  // of a step in that time, mean
};
struct BenchResult {
  std::vector<double> step_seconds;  // sorted
  double mean_seconds = 0;           // a step; on a GPU, where the host runs ahead, single steps vary more
  std::vector<PeakSample> peaks;     // of this rank
  int64_t tokens = 0;                // of a step, padding left out, all ranks
  int64_t active_params = 0, params = 0;
  double flops_per_token = 0;  // forward and backward
  double peak_flops = 0;       // best sample, summed over ranks
  int ranks = 1, threads = 1;
  double loss = 0;          // of the last step
  double data_wait_ms = 0;  // a step, mean
  double rank_load =
      0;  // tokens of the fullest expert-parallel rank over the mean, mean over layers and steps
  int64_t moved_layers = 0;  // in which experts changed ranks between these steps
  // Median with each collective of tensors replaced by a local copy; 0 for one rank, and where all steps are so.
  double alone_seconds = 0;
  bool imitated = false;              // the other ranks (comm::make_imitated_world)
  double wire_bytes_per_s = 0;        // to them
  MemoryPlan plan;                    // of rank 0
  size_t activations[3] = {0, 0, 0};  // bytes with each of kRecomputes
  size_t gpu_bytes = 0;               // in use on the GPU after the last step; 0 on the CPU
  SaveCost save;                      // of measure_save()
  double median_seconds() const { return step_seconds[step_seconds.size() / 2]; }
  double exposed_share() const {
    return alone_seconds > 0 ? (median_seconds() - alone_seconds) / median_seconds() : 0;
  }
  double flops() const { return flops_per_token * double(tokens) / median_seconds(); }
};

// Random tokens in documents of one sequence each, for a run file without a manifest; model.vocab says how
// many ids.
Dataset random_dataset(const RunConfig& config);
// A run that is timed, in one piece or in turns with other programs. All members are collective.
class StepBench {
 public:
  // Four steps warm up, six where experts move between ranks, so that they have by then; eight when `batches` is not empty,
  // a file that then holds what they trained on: for each
  // micro-batch the tokens, then their targets, as int32. With `init` in the run file the values are the checkpoint's.
  StepBench(const RunConfig& config, const Dataset& dataset, comm::World& world,
            const std::filesystem::path& batches = {});
  ~StepBench();
  // That many timed steps. Peaks are measured between steps, so that a machine whose speed drifts (heat,
  // neighbours) drifts for both. mean_seconds is from the first to the device's end of the last one. wire: of an imitated
  // world, for GPUs.
  BenchResult run(int64_t steps, comm::ImitatedWire* wire = nullptr);
  // One checkpoint in `folder`, written while steps go on as in training; a first one, which takes memory, comes before.
  SaveCost measure_save(const std::filesystem::path& folder);

 private:
  std::unique_ptr<TrainState> state_;
};

}  // namespace cadre::trainer
