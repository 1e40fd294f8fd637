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

// What the report says of a part.
struct Section {
  ordered_json json = {};  // null: nothing yet
  std::string html = {}, markdown = {};
  std::vector<std::pair<std::string, std::string>> figures = {};  // name, figure
  bool whole = false;
};

class Audit {
 public:
  Audit(const AuditConfig& config, comm::World& world, const trainer::Dataset& dataset)
      : config_(config),
        context_{.configure = [this](const study::Overrides& more) { return configure(config_, more); },
                 .dataset = dataset,
                 .world = world,
                 .out = config.out,
                 .keep_going = [this] { return !gathering_ && !trainer::stop_requested(); }},
        run_(configure(config, {{"out", (fs::path(config.out) / "run").string()}})) {}

  ExitCode run() {
    if (!train()) return ExitCode::kStopped;
    const bool done = std::all_of(std::begin(kParts), std::end(kParts),
                                  [&](const Part& part) { return !wanted(part.name) || make(part); });
    const base::FileLock alone = base::FileLock::wait_for(fs::path(config_.out) / "audit.lock");
    gather();
    write_report();
    return done ? ExitCode::kOk : ExitCode::kStopped;
  }

 private:
  // Measures what a part lacks while it may, and tells what there is; true when the part is whole.
  struct Part {
    const char* name;
    bool (Audit::*add)(Journal&, Section&);
  };

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

  bool wanted(const char* part) const {
    return std::find(config_.parts.begin(), config_.parts.end(), part) != config_.parts.end();
  }

  fs::path journal_of(const char* part) const {
    return fs::path(config_.out) / (std::string(part) + ".jsonl");
  }

  bool make(const Part& part) {
    Journal kept(journal_of(part.name), config_.settings + config_.part_settings.at(part.name));
    Section section;
    const bool whole = (this->*part.add)(kept, section);
    section.whole = whole;
    sections_[part.name] = std::move(section);
    return whole;
  }

  // What other processes have measured: nothing is begun here. With the report's lock held, so that of processes that
  // end at the same time the last one to write sees what the others made.
  void gather() {
    gathering_ = true;
    for (const Part& part : kParts) {
      if (config_.part_settings.count(part.name) == 0 || sections_[part.name].whole) continue;
      if (!fs::exists(journal_of(part.name))) continue;
      try {
        make(part);
      } catch (const Error& error) {  // of a part that this process was not asked for
        spdlog::warn("the report is written without the part '{}': {}", part.name, error.what());
      }
    }
  }

  bool oracle(Journal& kept, Section& section) {
    OracleResult result;
    const bool whole = measure_oracle(*config_.oracle, *state_, kept, context_.keep_going, result);
    if (!whole) return false;
    section = {oracle_json(result), oracle_html(result), oracle_markdown(result), oracle_figures(result)};
    return true;
  }

  bool controls(Journal& kept, Section& section) {
    std::vector<ControlRun> runs;
    const bool whole = measure_controls(*config_.controls, checkpoint_, context_, kept, runs);
    if (!runs.empty())
      section = {controls_json(runs),
                 controls_html(runs),
                 controls_markdown(runs),
                 {{"controls", controls_figure(runs)}}};
    return whole;
  }

  bool mixes(Journal& kept, Section& section) {
    MixesResult result;
    if (!measure_mixes(*config_.mixes, *state_, checkpoint_, context_, kept, result)) return false;
    section = {
        mixes_json(result), mixes_html(result), mixes_markdown(result), {{"mixes", mixes_figure(result)}}};
    return true;
  }

  bool lds(Journal& kept, Section& section) {
    LdsResult result;
    if (!measure_lds(*config_.lds, *state_, context_, kept, result)) return false;
    section = {lds_json(result), lds_html(result), lds_markdown(result), {{"lds", lds_figure(result)}}};
    return true;
  }

  void write_report() const {
    const fs::path out = config_.out;
    const std::string name = out.filename().string();
    ordered_json json = ordered_json::object();
    std::string html, markdown = fmt::format("# {}\n\n", name);
    for (const Part& part : kParts) {
      const auto section = sections_.find(part.name);
      if (section == sections_.end() || section->second.json.is_null()) continue;
      json[part.name] = section->second.json;
      html += section->second.html;
      markdown += section->second.markdown + "\n";
      for (const auto& [figure, svg] : section->second.figures)
        base::write_file_atomic(out / (figure + ".svg"), study::svg_document(svg), ExitCode::kData);
    }
    base::write_file_atomic(out / "audit.json", json.dump(1) + "\n", ExitCode::kData);
    base::write_file_atomic(out / "audit.md", markdown, ExitCode::kData);
    base::write_file_atomic(out / "sections.html", html, ExitCode::kData);  // for `cadre report --audit`
    base::write_file_atomic(
        out / "report.html",
        study::html_document(
            name, fmt::format("Cadre audit of {} at step {}", config_.base.string(), state_->progress.step),
            html),
        ExitCode::kData);
  }

  // In the order of the report.
  static constexpr Part kParts[] = {{"oracle", &Audit::oracle},
                                    {"controls", &Audit::controls},
                                    {"mixes", &Audit::mixes},
                                    {"lds", &Audit::lds}};

  const AuditConfig& config_;
  AuditContext context_;
  trainer::RunConfig run_;
  std::optional<TrainState> state_;  // the moment, on the CPU
  fs::path checkpoint_;
  std::map<std::string, Section> sections_;  // by part
  bool gathering_ = false;                   // nothing more is measured
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
