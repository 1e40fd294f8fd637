// Ways to score documents with a checkpoint (`cadre score`). One file a kind, one row in score_kinds.cc. A kind works on one
// rank alone: documents are dealt to ranks in groups, and a group's scores do not depend on who computes them.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "parallel/comm/mesh.h"
#include "trainer/run/checkpoint.h"

namespace cadre::trainer {

struct ScoreOptions {
  std::string kind = "loss";
  std::string targets;  // manifest of target text, for less and influence; empty: the data's own
  std::string target_split = "valid";
  int64_t target_tokens = 4096;  // of each of its domains
  int64_t sketch = 8192;         // places of a sketch; 0: whole gradients
  std::string reward = "numeric";
  int64_t samples = 4, max_tokens = 64;  // for pass_rate
  double temperature = 1;
  uint64_t seed = 1;
};

// All borrowed; they outlive the kind.
struct ScoreInputs {
  const ScoreOptions* options = nullptr;
  const RunConfig* config = nullptr;  // the checkpoint's, for one rank
  TensorReader* reader = nullptr;     // of the checkpoint
  const data::Corpus* corpus = nullptr;
  const data::Corpus* targets = nullptr;  // null: there are none
  std::filesystem::path tokenizer;        // of the data
  comm::World* world = nullptr;           // of this rank alone
};

class ScoreKind {
 public:
  virtual ~ScoreKind() = default;
  virtual std::vector<std::string> columns() const = 0;
  // (columns, end - begin) scores of documents [begin, end) of the corpus.
  virtual std::vector<std::vector<double>> score(int64_t begin, int64_t end) = 0;
};

struct ScoreKindRow {
  const char* name;
  const char* about;
  std::unique_ptr<ScoreKind> (*make)(const ScoreInputs&);
  // What the scores depend on beside model and data, for the file's header.
  std::string (*settings)(const ScoreOptions&);
};
const std::vector<ScoreKindRow>& score_kinds();
const ScoreKindRow& find_score_kind(const std::string& name);

std::unique_ptr<ScoreKind> make_loss_scores(const ScoreInputs& inputs);
std::unique_ptr<ScoreKind> make_influence_scores(const ScoreInputs& inputs);
std::unique_ptr<ScoreKind> make_less_scores(const ScoreInputs& inputs);
std::unique_ptr<ScoreKind> make_pass_rates(const ScoreInputs& inputs);

}  // namespace cadre::trainer
