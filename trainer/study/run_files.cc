#include "trainer/study/run_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "parallel/base/files.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path result_file(const StudyConfig& study, const std::string& run) {
  return folder_of(study, run) / "result.json";
}

json to_json(const RunResult& result, const std::string& metric) {
  json curve = json::array();
  for (const auto& [step, value] : result.curve) curve.push_back({step, value});
  return {{"name", result.name},        {"metric", metric},
          {"error", result.error},      {"code", result.code},
          {"value", result.value},      {"worst", result.worst},
          {"domains", result.domains},  {"curve", curve},
          {"steps", result.steps},      {"tokens", result.tokens},
          {"best", result.reward.best}, {"collapse_step", result.reward.collapse_step},
          {"ess", result.reward.ess}};
}

// A number, or NaN for null: what JSON makes of it.
double number_or_nan(const json& j, const char* key) {
  return j.contains(key) && j[key].is_number() ? j[key].get<double>() : NAN;
}

bool is_there(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(file, ignored);
}

}  // namespace

std::optional<RunResult> load_result(const StudyConfig& study, const StudyRun& run) {
  const fs::path file = result_file(study, run.name);
  if (!is_there(file)) return std::nullopt;
  RunResult result{.name = run.name, .cell = run.cell, .seed = run.seed, .part = run.part};
  try {
    const json j = json::parse(base::read_file(file, ExitCode::kData));
    result.error = j.at("error");
    result.code = j.at("code");
    if (!result.error.empty()) return result;
    if (j.value("metric", study.metric) != study.metric) {  // the study is asked about another one
      RunResult other = read_result(file.parent_path(), study.metric);
      other.name = run.name, other.cell = run.cell, other.seed = run.seed, other.part = run.part;
      return other;
    }
    result.value = j.at("value");
    result.worst = j.at("worst");
    result.domains = j.at("domains").get<std::map<std::string, double>>();
    for (const json& point : j.at("curve")) result.curve.emplace_back(point.at(0), point.at(1));
    result.steps = j.at("steps");
    result.tokens = j.at("tokens");
    result.reward = {number_or_nan(j, "best"), number_or_nan(j, "collapse_step"), number_or_nan(j, "ess")};
  } catch (const json::exception& e) {
    fail(ExitCode::kData, "{}: cannot be read ({}); remove it, and the run is read or made again",
         file.string(), e.what());
  }
  return result;
}

void save_result(const StudyConfig& study, const RunResult& result) {
  fs::create_directories(folder_of(study, result.name));
  base::write_file_atomic(result_file(study, result.name), to_json(result, study.metric).dump(1) + "\n",
                          ExitCode::kData);
}

void forget_failures(const StudyConfig& study) {
  for (const StudyRun& run : study.runs) {
    const auto result = load_result(study, run);
    std::error_code ignored;
    if (result && !result->error.empty()) fs::remove(result_file(study, run.name), ignored);
  }
}

Claims::Claims(const StudyConfig& study) : study_(study), over_(study.runs.size(), false) {}

bool Claims::over(size_t run) {
  if (!over_[run]) over_[run] = is_there(result_file(study_, study_.runs[run].name));
  return over_[run];
}

bool Claims::ready(const StudyRun& run) {
  const auto over_by_name = [&](const std::string& name) {
    for (size_t i = 0; i < study_.runs.size(); ++i) {
      if (study_.runs[i].name == name) return over(i);
    }
    return true;
  };
  for (const auto& [word, reference] : run.references) {
    if (reference.kind == Reference::kBest) {
      for (const auto& [candidate, value] : reference.candidates) {
        if (!over_by_name(candidate)) return false;
      }
    } else if (!over_by_name(reference.run)) {
      return false;
    }
  }
  return true;
}

int64_t Claims::next() {
  release();
  int64_t found = kNoneLeft;
  for (size_t i = 0; i < study_.runs.size(); ++i) {
    if (over(i)) continue;
    found = kOthersAtWork;
    if (!ready(study_.runs[i])) continue;
    const fs::path folder = folder_of(study_, study_.runs[i].name);
    std::error_code code;
    fs::create_directories(folder, code);
    require(!code, ExitCode::kData, "cannot make {}: {}", folder.string(), code.message());
    held_ = base::FileLock::take(folder / "claim");
    // Who held it before may have ended the run since it was looked at.
    if (held_ && !over(i)) return int64_t(i);
    release();
  }
  return found;
}

size_t Claims::num_left() const {
  return size_t(std::count(over_.begin(), over_.end(), false));
}

}  // namespace cadre::study
