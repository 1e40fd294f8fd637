// The `study` section of a study file: one run file, and the runs that differ from it.
//
//   study:
//     base: quickstart.yaml          # a run file; its path is relative to this file
//     out: runs/study                # the study's folder; each run has its own below it
//     set: {train.steps: 300}        # for every run
//     axes: {mixer: [uniform, {name: gim, period: 50}], seed: [1, 2, 3]}
//     variants: {}                   # one more axis: a name and its own keys
//     also: {variants: {}, axes: {}} # more runs, with a `set` of their own
//     metric: eval_loss              # eval_loss, eval_bpb, train_loss or eval_reward
//     stages: {sft: {base: sft.yaml, set: {}}}  # single runs that come first, with run files of their own
//     sweep: {set: {}, variants: {a: {}}, axes: {optim.lr: [1.0e-4, 1.0e-3]}}  # before the runs that it chooses for
//     keep_checkpoints: false        # true: of every run; else only while other runs need them
//
// Runs are all combinations, the last axis fastest. In a value, `run:NAME` stands for the folder of variant NAME's run
// and `average:NAME` for a file of the time average of its domain weights, both with the same values of the other axes;
// `stage:NAME` for the folder of a stage, `best:NAME` for the value at which swept variant NAME had the best metric.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/base/config.h"
#include "trainer/run/run_config.h"

namespace cadre::study {

// Keys of a run file and values, as text: "mixer" and "{name: gim, period: 50}".
using Overrides = std::vector<std::pair<std::string, std::string>>;

struct Reference {
  enum Kind { kRun, kAverage, kBest } kind = kRun;
  std::string run;                                              // StudyRun::name
  std::vector<std::pair<std::string, std::string>> candidates;  // of kBest: runs, and what each stands for
};
enum class Part { kStage, kSweep, kGrid };  // only runs of the grid are compared with each other
struct StudyRun {
  std::string name;       // also of its folder
  std::string cell;       // without the seed: what a row of the results stands for
  std::string seed = {};  // empty: the base's
  Part part = Part::kGrid;
  std::filesystem::path base = {};       // of a stage; empty: the study's
  std::string variant = {}, swept = {};  // of the last axis: its value
  Overrides overrides = {};
  std::map<std::string, Reference> references = {};  // by the words of values that stand for them
};
struct StudyConfig {
  std::filesystem::path base;
  std::string out, metric = "eval_loss";
  bool keep_checkpoints = false;
  std::vector<StudyRun> runs;

  bool higher_is_better() const { return metric == "eval_reward"; }
};

// Reads `study` and checks every run's keys and values; throws Error(kUsage) naming the line of the axis or variant.
StudyConfig read_study(base::Section section);

// The run file of one run; words that stand for other runs are replaced by `resolve`.
trainer::RunConfig configure(const StudyConfig& study, const StudyRun& run,
                             const std::function<std::string(const Reference&)>& resolve);
std::filesystem::path folder_of(const StudyConfig& study, const std::string& run);

// Whether the map under these keys of a study file has paths of a run file for keys: `set`, `axes`, and each of `variants`.
bool holds_paths(std::span<const std::string> keys);
// Reads "set": a map of run-file keys. Also checks that they are known to the base.
Overrides read_overrides(base::Section& section, const std::string& key);
// The value of a key as one line of YAML.
std::string read_value(base::Section& section, const std::string& key);
// `base`, relative to the file that names it. Throws Error(kUsage) when it is missing.
std::filesystem::path read_base(base::Section& section);
std::vector<std::string> as_arguments(const Overrides& overrides);  // "key=value"

}  // namespace cadre::study
