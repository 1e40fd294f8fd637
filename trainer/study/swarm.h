// `cadre swarm`: many small runs over random mixes, a law of the loss for each target, and the mix that it proposes.
//
//   swarm:
//     base: study-small.yaml     # the proxy's run file; its path is relative to this file
//     out: runs/swarm
//     set: {train.steps: 200}
//     mixes: 32
//     method: olmix              # exact convex proposer; regmix: the mean of the best of many random mixes
//     kl: 0.05                   # of olmix: how much a mix must gain to leave the natural one
//     scale: [0.1, 5]            # of the Dirichlet draws
//     max_ratio: 15              # drawn shares, over the natural ones
//     max_share: 1               # caps of the proposal: on every share,
//     max_epochs: 0              # and so that a run of `tokens` sees no document more often than that; 0: none
//     tokens: 0                  # of the run that the proposal is for; 0: the proxy's
//     metric: eval_loss
//     seed: 1
//
// The proposal is out/proposal.json, for `mixer: {name: file, path: ...}`; out/best.json is the best mix that was tried.
#pragma once

#include "trainer/study/mixture_law.h"
#include "trainer/study/study.h"

namespace cadre::study {

struct SwarmConfig {
  StudyConfig study;  // without runs
  Overrides set;
  MixDraw draw;
  std::string method = "olmix";
  double kl = 0.05, max_share = 1, max_epochs = 0;
  int64_t tokens = 0;
};
SwarmConfig read_swarm(base::Section section);
StudyConfig study_of(const SwarmConfig& config);  // a run for each mix

struct SwarmFit {
  std::vector<std::string> domains, targets;
  Mix natural, best, proposal;
  std::vector<LogLinearLaw> laws;             // by target
  std::vector<double> real, cross_validated;  // mean loss of every mix that was run
  double pearson = 0, spearman = 0;           // of the two
};
// Pure: from the runs' losses by target.
SwarmFit fit_swarm(const SwarmConfig& config, const std::vector<std::string>& domains,
                   const std::vector<int64_t>& domain_tokens, const std::vector<Mix>& mixes,
                   const std::vector<std::map<std::string, double>>& losses);

// As run_study. Collective.
ExitCode run_swarm(const SwarmConfig& config, comm::World& world, const StudyOptions& options);

}  // namespace cadre::study
