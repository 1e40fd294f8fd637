// What a run says of itself while it goes on: metrics.jsonl and who hears its lines, the console, the log. Rank 0's; on
// other ranks all but open() does nothing.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/run/console.h"
#include "trainer/run/metrics.h"

namespace cadre::trainer {

class RunLog {
 public:
  RunLog(const TrainState& state, ProgressStyle style);  // the state is borrowed
  // Writes config.resolved.yaml and environment.json and opens metrics.jsonl. Collective: a failure is every rank's.
  void open(comm::Communicator& data, const std::string& commit);
  void describe(int ranks) const;                 // the model, its dispatch and its memory
  void set_peak(double flops) { peak_ = flops; }  // of all ranks; 0: unknown
  void step(const StepReport& report, double step_seconds, double left_s);
  void evaluated(const std::vector<DomainScore>& scores);
  void evaluated(const std::vector<RewardScore>& scores);
  void event(const std::string& name, const std::string& message);
  void line(const std::string& text) { console_.line(text); }
  void rewind();  // the run went back to its state's step

 private:
  struct Window {  // since the last train line
    int64_t steps = 0;
    double seconds = 0, tokens = 0, data_wait_ms = 0, comm_exposed_ms = 0;
  };
  void open_files(const std::string& commit);
  void add_watchers(const std::filesystem::path& out);
  void tell_of_muon();
  void tell_of_shuffle();
  void tell_spike(const StepReport& report);
  void write_train_line(const StepReport& report);

  const TrainState& state_;
  Console console_;
  std::optional<MetricsFile> metrics_;
  Window window_;
  double peak_ = 0;
};

}  // namespace cadre::trainer
