// Turns plans into batches for one data rank, ahead of time on a thread of its own. Rank r of R takes sequences r, r + R,
// r + 2R, ... of the global batch, cut into micro-batches. A sequence is cut only where ranks share rows, and then into as
// many parts as ranks.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/corpus.h"
#include "data/planner.h"
#include "parallel/base/batch.h"

namespace cadre::data {

struct LoaderConfig {
  int64_t micro_batch = 4;  // sequences of one micro-batch on one rank
  int64_t seq_len = 256;
  bool mask_documents = true;  // attention mask and positions restart at document boundaries
  int prefetch = 2;            // batches read ahead; 0 reads in the step
  int data_rank = 0, data_ranks = 1;
  int part = 0, parts = 1;  // of each sequence, for this rank of those with its data_rank
};

// A rank's part of one global batch.
struct LoadedBatch {
  std::vector<Batch> micro;            // the same number on every rank; the last may hold padding rows
  BatchCounts counts;                  // of the global batch
  std::vector<int64_t> domain_tokens;  // (K) trained, global
  std::vector<double> weights;         // (K) the mixer's weights that the plan used
  std::vector<int64_t> documents =
      {};                       // (B) the first of each sequence, global: of prompts, all that a plan says
  nlohmann::json metrics = {};  // what made the batch says of it, for metrics.jsonl; null: nothing
  BatchPlan plan;               // what it was made from
};

// Builds the part of `plan` that belongs to a rank. Pure. micro-batches per rank: ceil(ceil(B / R) / micro_batch).
LoadedBatch build_batch(const BatchPlan& plan, const Corpus& corpus, const LoaderConfig& config);

// Reads submitted plans in order on a thread of its own (prefetch 0: inside next()).
class Loader {
 public:
  Loader(const LoaderConfig& config, const Corpus& corpus);
  ~Loader();
  void submit(BatchPlan plan);
  LoadedBatch next();  // waits; rethrows what the thread threw
  double last_wait_ms() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cadre::data
