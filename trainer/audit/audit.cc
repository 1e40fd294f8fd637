#include "trainer/audit/audit.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "parallel/base/file_lock.h"
#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/run/checkpoint.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_writer.h"
#include "trainer/run/step.h"
#include "trainer/run/stop.h"
#include "trainer/study/plots.h"

namespace cadre::audit {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using trainer::TrainState;

class Audit {
 public:
  Audit(const AuditConfig& config, comm::World& world, const trainer::Dataset& dataset)
      : config_(config),
        context_{.configure = [this](const study::Overrides& more) { return configure(config_, more); },
                 .dataset = dataset,
                 .world = world,
                 .out = config.out,
                 .keep_going = [] { return !trainer::stop_requested(); }},
        run_(configure(config, {{"out", (fs::path(config.out) / "run").string()}})) {}

  ExitCode run() {
    if (!train()) return ExitCode::kStopped;
    const bool done = oracle() && controls() && mixes() && lds();
    write_report();
    return done ? ExitCode::kOk : ExitCode::kStopped;
  }

 private:
  // Brings the run to the moment that is audited, from its last checkpoint, on the run's own device; the moment is
  // then looked at on the CPU, where single steps can be taken back.
  bool train() {
    const fs::path folder = fs::path(run_.out) / "checkpoints";
    const auto steps = std::max<uint64_t>(1, uint64_t(std::llround(config_.at * double(run_.train.steps))));
    {
      const auto alone = take_turn();
      if (!alone) return false;
      TrainState training(run_, context_.dataset, context_.world);
      resume(training, folder);
      const uint64_t before = training.progress.step;
      while (training.progress.step < steps && context_.keep_going()) {
        const trainer::StepReport report = train_step(training, {});
        if (training.progress.step % 100 == 0)
          spdlog::info("step {} of {}: loss {:.4f}", training.progress.step, steps, report.loss);
      }
      if (training.progress.step != before) save(training, folder);
      if (training.progress.step < steps) return false;
    }
    checkpoint_ = folder / trainer::checkpoint_name(steps);
    trainer::RunConfig here = run_;
    here.device = "cpu";
    state_.emplace(here, context_.dataset, context_.world);
    resume(*state_, folder);
    return true;
  }

  // One process trains the run; others find its checkpoint. Nothing when somebody asked to stop.
  std::optional<base::FileLock> take_turn() const {
    constexpr auto kMoment = std::chrono::milliseconds(250);
    fs::create_directories(run_.out);
    while (true) {
      auto lock = base::FileLock::take(fs::path(run_.out) / "claim");
      if (lock || !context_.keep_going()) return lock;
      std::this_thread::sleep_for(kMoment);
    }
  }

  static void resume(TrainState& state, const fs::path& folder) {
    const auto newest = trainer::newest_checkpoint(folder, state.model.mesh.data());
    if (!newest) return;
    trainer::TensorReader reader(*newest);
    trainer::restore(state, reader);
  }

  static void save(TrainState& state, const fs::path& folder) {
    trainer::CheckpointWriter writer(folder, state);
    writer.start();
    const trainer::SaveResult result = writer.finish();
    require(result.error.empty(), ExitCode::kCheckpoint,
            "the audited run's checkpoint could not be written: {}", result.error);
  }

  Journal journal(const char* part, const std::string& settings) {
    return Journal(fs::path(config_.out) / (std::string(part) + ".jsonl"), config_.settings + settings);
  }

  bool wanted(const char* part) const {
    return std::find(config_.parts.begin(), config_.parts.end(), part) != config_.parts.end();
  }

  bool oracle() {
    if (!wanted("oracle")) return true;
    Journal kept = journal("oracle", config_.part_settings.at("oracle"));
    OracleResult result;
    const bool done = measure_oracle(*config_.oracle, *state_, kept, context_.keep_going, result);
    if (result.cells.empty()) return done;
    json_["oracle"] = oracle_json(result);
    html_ += oracle_html(result);
    markdown_ += oracle_markdown(result) + "\n";
    for (auto& figure : oracle_figures(result)) figures_.push_back(std::move(figure));
    return done;
  }

  bool controls() {
    if (!wanted("controls")) return true;
    Journal kept = journal("controls", config_.part_settings.at("controls"));
    std::vector<ControlRun> runs;
    const bool done = measure_controls(*config_.controls, checkpoint_, context_, kept, runs);
    if (runs.empty()) return done;
    json_["controls"] = controls_json(runs);
    html_ += controls_html(runs);
    markdown_ += controls_markdown(runs) + "\n";
    figures_.emplace_back("controls", controls_figure(runs));
    return done;
  }

  bool mixes() {
    if (!wanted("mixes")) return true;
    Journal kept = journal("mixes", config_.part_settings.at("mixes"));
    MixesResult result;
    if (!measure_mixes(*config_.mixes, *state_, checkpoint_, context_, kept, result)) return false;
    json_["mixes"] = mixes_json(result);
    html_ += mixes_html(result);
    markdown_ += mixes_markdown(result) + "\n";
    figures_.emplace_back("mixes", mixes_figure(result));
    return true;
  }

  bool lds() {
    if (!wanted("lds")) return true;
    Journal kept = journal("lds", config_.part_settings.at("lds"));
    LdsResult result;
    if (!measure_lds(*config_.lds, *state_, context_, kept, result)) return false;
    json_["lds"] = lds_json(result);
    html_ += lds_html(result);
    markdown_ += lds_markdown(result) + "\n";
    figures_.emplace_back("lds", lds_figure(result));
    return true;
  }

  void write_report() {
    const fs::path out = config_.out;
    const std::string name = out.filename().string();
    const base::FileLock alone = base::FileLock::wait_for(out / "audit.lock");
    base::write_file_atomic(out / "audit.json", json_.dump(1) + "\n", ExitCode::kData);
    base::write_file_atomic(out / "audit.md", fmt::format("# {}\n\n{}", name, markdown_), ExitCode::kData);
    base::write_file_atomic(out / "sections.html", html_, ExitCode::kData);  // for `cadre report --audit`
    base::write_file_atomic(
        out / "report.html",
        study::html_document(
            name, fmt::format("Cadre audit of {} at step {}", config_.base.string(), state_->progress.step),
            html_),
        ExitCode::kData);
    for (const auto& [figure, svg] : figures_)
      base::write_file_atomic(out / (figure + ".svg"), study::svg_document(svg), ExitCode::kData);
  }

  const AuditConfig& config_;
  AuditContext context_;
  trainer::RunConfig run_;
  std::optional<TrainState> state_;  // the moment, on the CPU
  fs::path checkpoint_;
  ordered_json json_ = ordered_json::object();
  std::string html_, markdown_;
  std::vector<std::pair<std::string, std::string>> figures_;  // name, figure
};

}  // namespace

ExitCode run_audit(const AuditConfig& config, comm::World& world, const trainer::Dataset* dataset) {
  require(world.size() == 1, ExitCode::kUsage,
          "the audit runs on one rank, found {}; start it without mpirun", world.size());
  std::optional<trainer::Dataset> opened;
  if (dataset == nullptr) dataset = &opened.emplace(trainer::open_dataset(configure(config, {})));
  fs::create_directories(config.out);
  return Audit(config, world, *dataset).run();
}

}  // namespace cadre::audit
