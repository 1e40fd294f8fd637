// What a run would cost on a cluster that is not here: time of a step and memory of a GPU for every way of laying it
// out. docs/scaling.md derives the model and names what it assumes.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/run/run_config.h"

namespace cadre::trainer {

// One kind of GPU in nodes of equal size. GB are 1e9 bytes; rates are in one direction, for each GPU.
struct Cluster {
  int nodes = 1, gpus_per_node = 8;
  double memory_gib = 80;
  double peak_tflops = 989;  // dense bf16
  double efficiency =
      0.55;  // share of the peak that a step without its update reaches, by `cadre bench` on one GPU
  double memory_gb_s = 3000;  // of the GPU's own memory
  double node_gb_s = 240;     // to GPUs of the same node, as `cadre bench comm` measures it
  double network_gb_s = 40;   // to other nodes
  // Multiprocessors of a GPU, and how many of them NCCL's kernels hold while they run (NCCL_MAX_CTAS bounds them).
  int sms = 132, comm_sms = 24;
  int gpus() const { return nodes * gpus_per_node; }
};
// Throws Error(kUsage) for what is missing, unknown or impossible.
Cluster read_cluster(const std::filesystem::path& file);

struct Estimate {
  int ep = 1, data_ranks = 1, zero = 1;
  Recompute recompute = Recompute::kNone;
  double compute_ms = 0, update_ms = 0;
  // Exposed: what of a collective nothing hides.
  double experts_ms = 0, gradients_ms = 0, values_ms = 0;
  double context_ms = 0;  // tokens for heads and back, around attention
  // By which hidden collectives slow down what hides them: the multiprocessors and the memory's bandwidth they take.
  double beside_ms = 0;
  double memory_gib = 0;
  double tokens = 0;  // of a step, all GPUs
  double peak_share = 0;
  bool fits = false;
  double step_ms() const {
    return compute_ms + update_ms + context_ms + experts_ms + gradients_ms + values_ms + beside_ms;
  }
  double tokens_per_s() const { return 1e3 * tokens / step_ms(); }
};

// Every expert degree that divides the experts and the GPUs, with each kind of recomputation and the lowest mesh.zero
// from 1 on that fits; train.micro_batch sequences a GPU (or context group of mesh.cp) and step. model.vocab must be set. Those that fit first, the fastest of them in front.
std::vector<Estimate> estimate_layouts(const Cluster& cluster, const RunConfig& run);

}  // namespace cadre::trainer
