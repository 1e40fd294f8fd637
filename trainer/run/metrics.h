// metrics.jsonl: one JSON object a line, described in docs/metrics.md. A resumed run continues the file as if
// it had never stopped.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "parallel/base/files.h"
#include "trainer/report/sink.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/step.h"

namespace cadre::trainer {

// Only rank 0 has one. A full disk costs lines, never the run; the first failure is logged, and writing goes on
// when there is space again.
class MetricsFile {
 public:
  // Keeps the lines of steps up to `resumed_step` of an older file and drops the rest.
  MetricsFile(const std::filesystem::path& path, uint64_t resumed_step);
  // Also hands each line to `sink`.
  void add_sink(std::unique_ptr<report::MetricSink> sink) { sinks_.push_back(std::move(sink)); }
  void write(const nlohmann::json& line);
  // The run goes back: lines after `step` are dropped.
  void rewind(uint64_t step);

 private:
  void open(uint64_t step);
  std::filesystem::path path_;
  bool broken_ = false;  // the last write failed, perhaps in the middle of a line
  std::unique_ptr<base::FileWriter> file_;
  std::vector<std::unique_ptr<report::MetricSink>> sinks_;
};

// What a train line says beside the report.
struct StepTimes {
  double step_ms = 0, tokens_per_s = 0, data_wait_ms = 0, comm_exposed_ms = 0;
  double mfu = 0;  // 0: not measured
};
nlohmann::json train_line(const TrainState& state, const StepReport& report, const StepTimes& times,
                          bool expert_load);
nlohmann::json eval_line(uint64_t step, const std::vector<DomainScore>& scores);
nlohmann::json probe_line(const TrainState& state, const ProbeReport& report);
nlohmann::json reward_line(uint64_t step, const std::vector<RewardScore>& scores);
nlohmann::json event_line(uint64_t step, const std::string& event, const std::string& message);

// Largest over mean tokens of an expert, and their coefficient of variation; the worst and the mean over
// layers.
struct LoadBalance {
  double max_over_mean = 0, cv = 0;
};
LoadBalance load_balance(const std::vector<std::vector<double>>& expert_tokens);
// Tokens of the fullest of so many expert-parallel ranks over the mean, mean over layers.
double fullest_rank(const std::vector<std::vector<double>>& expert_tokens, int ranks);

}  // namespace cadre::trainer
