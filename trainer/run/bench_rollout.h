// How fast sampling is, against the bytes that it must at least read: every pass of the model reads the weights that it
// uses, and the keys and values of every running sequence. And how far its log-probabilities are from those of the
// trainer's forward pass over the same tokens.
#pragma once

#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/device/param_table.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

struct RolloutBenchConfig {
  int64_t prompts = 64;  // on each rank
  int64_t prompt_tokens = 128, new_tokens = 256, repeats = 5;
  bool trace = false;  // one more repeat, in which kernels are recorded
};

// Of behaviour log-probabilities less the trainer's, over all new tokens of one rank's last repeat.
struct RolloutDrift {
  double mean = 0, largest = 0;  // of the difference's size
  double log_w_std = 0;  // over responses, of the sum over a response: the noise of log W before any update
  int64_t responses = 0;
};

// All launches of a kernel, or copies of a kind, in one repeat.
struct KernelShare {
  std::string name;
  int64_t count = 0;
  double seconds = 0;
};
struct RolloutBenchResult {
  std::vector<double> seconds;  // of the slowest rank, sorted
  int64_t new_tokens = 0;       // of a repeat, all ranks
  int64_t passes = 0;           // of a repeat, this rank
  double bytes = 0;             // a repeat must read on a rank
  double bandwidth = 0;         // bytes/s of a large copy on a rank's device, reads and writes
  int ranks = 1;
  bool bf16 = false;
  RolloutDrift drift;
  std::vector<KernelShare> kernels;  // the longest first; with RolloutBenchConfig::trace
  double traced_seconds = 0;         // of that repeat, by the clock

  double median_seconds() const { return seconds[seconds.size() / 2]; }
  double tokens_per_s() const { return double(new_tokens) / median_seconds(); }
  // Of the speed at which nothing but these bytes would take time.
  double share_of_bound() const { return bytes / bandwidth / median_seconds(); }
};

// Random prompts, and responses that never end by themselves, from the values that a run starts with. Collective. Throws
// Error(kUsage) where a sequence does not fit into data.seq_len, model.vocab is missing, or kernels cannot be recorded.
RolloutBenchResult bench_rollout(const RunConfig& config, comm::World& world,
                                 const RolloutBenchConfig& bench);

// Bytes of weights that one pass of `rows` tokens reads on this rank: all dense ones but the input embedding's, and the
// experts that the rows choose, if they choose evenly.
double weight_bytes(const device::ParamLayout& layout, const RunConfig& config, int64_t rows, size_t element);

}  // namespace cadre::trainer
