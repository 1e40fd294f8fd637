#include "trainer/study/study.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/run/stop.h"
#include "trainer/study/run_files.h"
#include "trainer/study/study_report.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kSettings = "study-run.yaml";

class Study {
 public:
  Study(const StudyConfig& study, comm::World& world, const StudyOptions& options)
      : study_(study), options_(options), world_(world), ranks_(world.everyone("study")), claims_(study) {}

  ExitCode run() {
    on_first_rank("read the results so far", [&] {
      if (options_.retry_failed) forget_failures(study_);
      collect_results(study_);  // a file that cannot be read is known before hours of work
    });
    for (int64_t turn; (turn = next_turn()) != Claims::kNoneLeft;) {
      if (turn == Claims::kOthersAtWork) {
        if (!wait_a_moment()) return ExitCode::kStopped;
        continue;
      }
      const StudyRun& run = study_.runs[size_t(turn)];
      if (ranks_->rank() == 0) spdlog::info("run {} of {}: {}", turn + 1, study_.runs.size(), run.name);
      const ExitCode ended = make(run);
      claims_.release();
      if (ended == ExitCode::kStopped) return ended;
    }
    double code = 0;  // of the first run that failed
    on_first_rank("write the study's report", [&] {
      const base::FileLock alone = lock_study();
      const auto results = collect_results(study_);
      write_report(study_, results);
      for (const RunResult& r : results) {
        if (r.error.empty()) continue;
        if (code == 0) code = r.code;
        spdlog::error("run {} failed: {}", r.name, r.error);
      }
    });
    return ExitCode(int(ranks_->all_reduce(code, comm::ReduceOp::kMax, "study failures")));
  }

 private:
  // Local work of rank 0 whose failure all ranks learn of.
  void on_first_rank(const char* what, const std::function<void()>& body, ExitCode code = ExitCode::kData) {
    std::string error;
    if (ranks_->rank() == 0) {
      try {
        body();
      } catch (const Error& e) {
        error = e.what();
      }
    }
    ranks_->agree(error, code, what);
  }

  // Rank 0 holds the claim and tells the others.
  int64_t next_turn() {
    double turn = Claims::kOthersAtWork;
    on_first_rank("look for the next run", [&] { turn = double(claims_.next()); });
    return int64_t(ranks_->all_reduce(turn, comm::ReduceOp::kMax, "the next run"));
  }

  // Until others may have ended what is left; false when somebody asked to stop.
  bool wait_a_moment() {
    constexpr auto kMoment = std::chrono::milliseconds(250);
    if (ranks_->rank() == 0 && claims_.num_left() != waiting_for_) {
      waiting_for_ = claims_.num_left();
      spdlog::info("waiting for other processes: {} runs are not over", waiting_for_);
    }
    std::this_thread::sleep_for(kMoment);
    const double stop = trainer::stop_requested() ? 1 : 0;
    return ranks_->all_reduce(stop, comm::ReduceOp::kMax, "asked to stop") == 0;
  }

  // For what several processes write at the end of a run or of all.
  base::FileLock lock_study() const {
    fs::create_directories(study_.out);
    return base::FileLock::wait_for(fs::path(study_.out) / "study.lock");
  }

  // The value of the sweep's best run; the first of equals.
  std::string best(const Reference& reference) {
    std::optional<double> best;
    std::string value;
    for (const auto& [name, candidate] : reference.candidates) {
      const auto result = load_result(study_, find_run(name));
      if (!result || !result->error.empty()) continue;
      const double score = study_.higher_is_better() ? result->value : -result->value;
      if (best && score <= *best) continue;
      best = score;
      value = candidate;
    }
    require(best.has_value(), ExitCode::kData, "every run of the sweep before '{}' failed",
            reference.candidates.front().first);
    return value;
  }

  const StudyRun& find_run(const std::string& name) const {
    return *std::find_if(study_.runs.begin(), study_.runs.end(),
                         [&](const StudyRun& r) { return r.name == name; });
  }

  std::string resolve(const Reference& reference) {
    if (reference.kind == Reference::kBest) return best(reference);
    const fs::path folder = folder_of(study_, reference.run);
    if (reference.kind == Reference::kRun) return folder.string();
    return (folder / "average_weights.json").string();
  }

  // Every value that the run was asked for stands in a file of its folder, so that a study file that was changed in
  // between cannot mix results of different settings.
  void remember_settings(const StudyRun& run, trainer::RunConfig config) {
    config.out.clear();
    const std::string now = resolved_yaml(config);
    const fs::path folder = folder_of(study_, run.name), file = folder / kSettings;
    fs::create_directories(folder);
    if (fs::exists(file)) {
      require(base::read_file(file, ExitCode::kData) == now, ExitCode::kUsage,
              "{} was begun with other settings; remove the folder, or give the study another `out`",
              folder.string());
    } else {
      base::write_file_atomic(file, now, ExitCode::kData);
    }
  }

  void write_averages(const StudyRun& run) {
    if (run.references.empty()) return;
    const base::FileLock alone = lock_study();
    for (const auto& [word, reference] : run.references) {
      if (reference.kind == Reference::kBest) continue;
      const auto result = load_result(study_, find_run(reference.run));
      require(result && result->error.empty(), ExitCode::kData, "needs run '{}', which failed",
              reference.run);
      if (reference.kind == Reference::kRun) continue;
      const fs::path folder = folder_of(study_, reference.run);
      base::write_file_atomic(folder / "average_weights.json", json(average_weights(folder)).dump(1) + "\n",
                              ExitCode::kData);
    }
  }

  ExitCode make(const StudyRun& run) {
    RunResult result{.name = run.name, .cell = run.cell, .seed = run.seed, .part = run.part};
    std::optional<trainer::RunConfig> config;
    guard(result, [&] {
      on_first_rank("average weights", [&] { write_averages(run); });
      config = configure(study_, run, [&](const Reference& r) { return resolve(r); });
    });
    if (config) {
      on_first_rank(
          "write the run's settings", [&] { remember_settings(run, *config); }, ExitCode::kUsage);
      ExitCode code = ExitCode::kOk;
      guard(result, [&] { code = train(run, *config, result); });
      if (code == ExitCode::kStopped) return code;
    }
    on_first_rank("write the run's result", [&] {
      save_result(study_, result);
      drop_checkpoints();
    });
    return ExitCode::kOk;
  }

  ExitCode train(const StudyRun& run, const trainer::RunConfig& config, RunResult& result) {
    const ExitCode code =
        trainer::train(config, options_.dataset != nullptr ? *options_.dataset : datasets_.open(config),
                       world_, options_.train);
    if (code == ExitCode::kStopped) return code;
    on_first_rank("read the run's result", [&] {
      const bool stage = run.part == Part::kStage;
      RunResult read = read_result(folder_of(study_, run.name), stage ? "train_loss" : study_.metric);
      read.name = run.name, read.cell = run.cell, read.seed = run.seed, read.part = run.part;
      result = std::move(read);
    });
    return code;
  }

  // A run's failure is its result; but ranks that lost each other cannot go on.
  void guard(RunResult& result, const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& e) {
      if (e.code() == ExitCode::kComm) throw;
      result.error = e.what();
      result.code = int(e.code());
    }
  }

  // Of runs that are over and that no run still needs.
  void drop_checkpoints() {
    if (study_.keep_checkpoints) return;
    std::vector<std::string> needed;
    for (const StudyRun& run : study_.runs) {
      if (load_result(study_, run)) continue;
      for (const auto& [word, reference] : run.references) needed.push_back(reference.run);
    }
    for (const StudyRun& run : study_.runs) {
      if (std::find(needed.begin(), needed.end(), run.name) != needed.end() || !load_result(study_, run))
        continue;
      std::error_code ignored;
      fs::remove_all(folder_of(study_, run.name) / "checkpoints", ignored);
    }
  }

  const StudyConfig& study_;
  const StudyOptions& options_;
  comm::World& world_;
  std::unique_ptr<comm::Communicator> ranks_;
  Claims claims_;           // of rank 0
  size_t waiting_for_ = 0;  // runs, as the log was told
  DatasetCache datasets_;
};

}  // namespace

const trainer::Dataset& DatasetCache::open(const trainer::RunConfig& config) {
  std::string key = fmt::format("{}\n{}\n{}\n{}", config.data.manifest, config.data.verify,
                                config.influence.manifest, config.influence.split);
  if (config.tasks)
    key +=
        fmt::format("\n{}\n{}\n{}", YAML::Dump(config.tasks_node), config.rollout.has_value(), config.init);
  if (!dataset_ || key != key_) {
    dataset_.reset();
    dataset_ = trainer::open_dataset(config);
    key_ = key;
  }
  return *dataset_;
}

std::vector<RunResult> collect_results(const StudyConfig& study) {
  std::vector<RunResult> results;
  for (const StudyRun& run : study.runs) {
    if (auto result = load_result(study, run)) results.push_back(std::move(*result));
  }
  return results;
}

ExitCode run_study(const StudyConfig& study, comm::World& world, const StudyOptions& options) {
  return Study(study, world, options).run();
}

}  // namespace cadre::study
