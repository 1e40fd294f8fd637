// Mixers say what share of each global batch a domain gets. One file a mixer in mixers/, one row in
// mixers/table.cc. observe() is the only feedback edge from training into data.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/base/batch.h"
#include "parallel/base/table.h"

namespace cadre::data {

// What a mixer wants the step to measure for it.
enum class Needs { kNone, kReferenceLoss, kInfluence, kProbeEvaluation };

struct MixerContext {
  std::vector<std::string> domains;    // (K)
  std::vector<int64_t> domain_tokens;  // (K) trainable tokens of one epoch
  int64_t total_tokens = 0;            // R, planned for the run
  int delay = 0;                       // weights given before step t act from step t + delay (data.prefetch)
  bool made_up = false;                // only the section is being checked: domains are not the data's
};

class Corpus;
// Domains and their sizes from a corpus: a document of n tokens, bos to eos, has n - 1 to train on.
MixerContext mixer_context(const Corpus& corpus, int64_t total_tokens);

class Mixer {
 public:
  virtual ~Mixer() = default;
  virtual std::vector<double> weights(const Progress& progress) = 0;  // (K), >= 0, sum 1
  virtual Needs needs() const { return Needs::kNone; }                // at some time of the run
  // Whether what it needs should be measured from the next step on; asked before every step. A probe takes as many
  // steps as it takes, and observe() has its result after the last.
  virtual bool probe_due(const Progress& progress) const { return (void)progress, false; }
  virtual void observe(const Progress& progress, const DomainStats& stats) { (void)progress, (void)stats; }
  virtual nlohmann::json save() const { return nlohmann::json::object(); }
  virtual void load(const nlohmann::json& state) { (void)state; }
  // The planner's cap on how often a domain's documents may be seen; 0 is none.
  virtual double max_epochs() const { return 0; }
};

using MixerMaker = std::unique_ptr<Mixer> (*)(base::Section, const MixerContext&);
const std::vector<base::Entry<MixerMaker>>& mixer_table();
std::unique_ptr<Mixer> make_mixer(base::Section section, const MixerContext& context);

}  // namespace cadre::data
