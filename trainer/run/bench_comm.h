// How fast collectives are on a run's device, between all ranks: those that training uses, and NCCL's own beside them.
#pragma once

#include <string>
#include <vector>

#include "parallel/comm/mesh.h"

namespace cadre::trainer {

struct CommSample {
  std::string what;    // "all-gather", "NCCL all-gather", "dispatch + combine"
  int64_t bytes = 0;   // of the whole result, or of what a rank sends and receives in an all-to-all
  double seconds = 0;  // median of one call
  double wire_share =
      0;  // of the bytes, what each rank has to send at least: (n - 1) / n, twice that for all-reduce
  double algorithm_bandwidth() const { return double(bytes) / seconds; }
  double bus_bandwidth() const { return wire_share * algorithm_bandwidth(); }
};

struct CommBenchConfig {
  std::string device = "auto";
  int64_t max_bytes = int64_t(64) << 20;
  int repeats = 10;
};

// Sizes from 256 KiB in steps of 4 times. Dispatch and combine are those of an MoE layer of OLMoE's shape (width 2048,
// 64 experts, 8 a token), with so many tokens that their rows have this size; on GPUs also through peer memory, where the ranks reach it. Collective over the world; the same on
// every rank.
std::vector<CommSample> bench_collectives(const CommBenchConfig& config, comm::World& world);

}  // namespace cadre::trainer
