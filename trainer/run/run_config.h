// The whole of a run file (docs/design.md, "The run file"), read once and strictly. Kinds with variants keep
// their section, which their table reads when the object is made; validate() makes each of them once, so a
// typo anywhere is found before anything starts.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tasks/task_corpus.h"
#include "moe/config.h"
#include "parallel/comm/mesh.h"
#include "trainer/model/config.h"
#include "trainer/rollout/config.h"
#include "trainer/run/influence_config.h"
#include "trainer/run/spikes.h"

namespace cadre::trainer {

struct DataConfig {
  std::string manifest;
  int64_t seq_len = 256;
  bool pack = true;
  bool mask_documents = true;
  std::string shuffle = "documents";  // documents | pieces: what the order of an epoch is an order of
  int prefetch = 2;
  std::string verify = "always";  // always | size
};
struct TrainConfig {
  int64_t steps = 500;
  int64_t global_batch = 16;  // sequences
  int64_t micro_batch = 4;    // sequences on one rank
  double clip_norm = 1.0;     // 0: off
  int max_skips = 5;          // skipped steps in a row that end the run
  // 0: no limit. Else the run ends, with its last evaluation and checkpoint, after this wall time: once the
  // speed is known the number of steps is cut to what fits, so that the schedule ends too. The result then
  // depends on the machine's speed.
  double max_minutes = 0;
  Recompute activation_recompute = Recompute::kNone;  // none | selective | full
};
struct EvalConfig {
  int64_t every = 100;  // steps; 0: only at the end
  int64_t tokens_per_domain = 20000;
};
struct CheckpointConfig {
  int64_t every = 200;  // steps; 0: only at the end
  int keep = 2;
  bool async = true;
};
struct LogConfig {
  int64_t every = 10;
  bool tensorboard = true;  // event files in <out>/tensorboard
  int prometheus = 0;       // port of the endpoint on rank 0; 0: none
  std::string prometheus_address = "127.0.0.1";
};

struct ProfileConfig {           // steps: first-last
  uint64_t first = 0, last = 0;  // 0: none
};

struct RunConfig {
  uint64_t seed = 1;
  std::string out = "runs/run";
  std::string init;  // a checkpoint (or run folder) whose values a new run starts with; empty: random ones
  std::string device = "auto";
  bool fp32 = false;  // `precision: fp32`; else a GPU stores bf16 (with fp32 masters), the CPU always fp32
  int threads = 0;    // a rank; 0: cores of the host / ranks on it
  DataConfig data;
  ModelConfig model;
  std::optional<moe::MoeConfig> moe;
  comm::MeshConfig mesh;
  TrainConfig train;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  LogConfig log;
  SpikeConfig spikes;
  ProfileConfig profile;
  InfluenceConfig influence;
  std::optional<RolloutConfig> rollout;      // runs that train on what they sample
  std::optional<data::TaskSetConfig> tasks;  // problems in place of data.manifest
  YAML::Node mixer, curriculum, selector, objective, optim, schedule, reward;
  YAML::Node rollout_node, tasks_node;  // as they stand in the run file
  std::string source;                   // file name, for messages
};

// Reads every section and makes every kind once. The manifest may be missing here; open_dataset asks for it.
RunConfig read_run(base::Section root);
// One of the kinds' sections, ready for its table: kind(config, config.mixer, "mixer").
base::Section kind(const RunConfig& config, const YAML::Node& node, const std::string& name);
// Sets model.vocab from the tokenizer's size, or checks that it holds it.
void set_vocab(RunConfig& config, int64_t tokenizer_vocab);
// The run file with every default written out; what config.resolved.yaml and checkpoints hold.
std::string resolved_yaml(const RunConfig& config);

}  // namespace cadre::trainer
