// The `moe` section of a run file.
#pragma once

#include <string>

#include "parallel/base/config.h"

namespace cadre::moe {

// What is dropped when an expert's capacity is full.
enum class DropPolicy { kLowestProbability, kPosition };

// How tokens travel to the ranks of their experts: exchange sends what was routed, with counts that the host reads;
// gather sends every row to all ranks of the group, and the host reads nothing; peer lets the ranks of one host read
// what was routed from each other's memory, and the host reads nothing; copy lets the copy engines of one host's GPUs fetch every
// row beside kernels, as gather sends them. auto: exchange on the CPU, on GPUs copy where it can be, else gather.
enum class DispatchKind { kAuto, kExchange, kGather, kPeer, kCopy };
const char* name_of(DispatchKind kind);

// What each rank of the expert group holds: whole experts, or of every expert an equal part of its width (tensor parallelism of
// experts). Then all ranks have the same work whatever the router chooses. auto: see share_widths().
enum class ExpertShares { kAuto, kExperts, kWidth };
const char* name_of(ExpertShares shares);

struct MoeConfig {
  int num_experts = 8;
  int top_k = 2;
  int width = 192;     // hidden width H of one expert
  int num_shared = 0;  // shared experts, one dense SwiGLU of num_shared * width, for every token
  double capacity_factor =
      0;  // 0: dropless; else C = ceil(K T / E * factor) a rank's micro-batch: split_dependent
  DropPolicy drop = DropPolicy::kLowestProbability;
  double z_loss = 0.001;
  DispatchKind dispatch = DispatchKind::kAuto;
  ExpertShares shares = ExpertShares::kAuto;  // `moe.shares`
  // Steps between looks at which experts move between ranks by their loads (trainer/run/rebalance.h); 0: never, -1: auto,
  // that is 100 where that can be.
  int64_t rebalance = -1;
  YAML::Node router, balance;  // {name: ..., ...}; read by the tables in routers/ and balance/
  std::string source;          // file, for messages
};
MoeConfig read_moe(base::Section section);
// Whether `ranks` of an expert group on GPUs (or not) share out widths.
bool share_widths(const MoeConfig& config, int ranks, bool on_gpus);

}  // namespace cadre::moe
