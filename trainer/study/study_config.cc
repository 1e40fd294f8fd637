#include "trainer/study/study_config.h"

#include <set>

#include "trainer/run/initial_model.h"
#include "trainer/study/study_grid.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;

// Reads the run as far as is possible before others have run. Files it refers to are not there yet.
void check_run(const StudyConfig& study, const StudyRun& run) {
  for (const auto& [key, value] : run.overrides) {
    require(key != "out", ExitCode::kUsage, "run '{}': `out` is given by the study", run.name);
  }
  try {
    configure(study, run, [](const Reference& r) {
      return r.kind == Reference::kBest ? r.candidates.front().second : std::string();
    });
  } catch (const Error& error) {
    fail(error.code(), "run '{}' of the study: {}", run.name, error.what());
  }
}

}  // namespace

fs::path read_base(base::Section& section) {
  const fs::path base = fs::path(section.source()).parent_path() / section.text("base");
  if (!fs::exists(base)) section.reject("base", fmt::format("no run file {}", base.string()));
  return base;
}

bool holds_paths(std::span<const std::string> keys) {
  if (keys.empty()) return false;
  return keys.back() == "set" || keys.back() == "axes" ||
         (keys.size() > 1 && keys[keys.size() - 2] == "variants");
}

Overrides read_overrides(base::Section& section, const std::string& key) {
  return overrides_of(section, section.section(key).node());
}

std::string read_value(base::Section& section, const std::string& key) {
  return one_line(section.section(key).node());
}

std::vector<std::string> as_arguments(const Overrides& overrides) {
  std::vector<std::string> out;
  for (const auto& [key, value] : overrides) out.push_back(key + "=" + value);
  return out;
}

fs::path folder_of(const StudyConfig& study, const std::string& run) {
  return fs::path(study.out) / "runs" / run;
}

StudyConfig read_study(base::Section section) {
  StudyConfig study;
  study.base = read_base(section);
  study.out = section.text("out");
  study.metric =
      section.choice("metric", study.metric, {"eval_loss", "eval_bpb", "train_loss", "eval_reward"});
  study.keep_checkpoints = section.boolean("keep_checkpoints", study.keep_checkpoints);
  add_stages(section.section("stages"), study.runs);
  if (section.has("sweep")) {
    base::Section sweep = section.section("sweep");
    add_grid(sweep, Part::kSweep, study.runs);
    sweep.finish();
  }
  add_grid(section, Part::kGrid, study.runs);
  if (section.has("also")) {
    base::Section also = section.section("also");
    add_grid(also, Part::kGrid, study.runs);
    also.finish();
  }
  section.finish();
  std::set<std::string> names;
  for (const StudyRun& run : study.runs) {
    require(names.insert(run.name).second, ExitCode::kUsage,
            "{}: two runs are called '{}'; give the axes' last words different names", section.source(),
            run.name);
    check_run(study, run);
  }
  return study;
}

trainer::RunConfig configure(const StudyConfig& study, const StudyRun& run,
                             const std::function<std::string(const Reference&)>& resolve) {
  std::vector<std::string> arguments;
  for (const auto& [key, value] : run.overrides) {
    YAML::Node node = YAML::Load(value);
    bool found = false;
    each_scalar(node, [&](YAML::Node scalar) {
      const auto reference = run.references.find(scalar.Scalar());
      if (reference == run.references.end()) return;
      scalar = resolve(reference->second);
      found = true;
    });
    arguments.push_back(key + "=" + (found ? one_line(node) : value));
  }
  arguments.push_back("out=" + folder_of(study, run.name).string());
  return trainer::load_run(run.base.empty() ? study.base : run.base, arguments);
}

}  // namespace cadre::study
