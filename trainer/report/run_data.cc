#include "trainer/report/run_data.h"

#include <cmath>

#include "parallel/base/files.h"
#include "parallel/base/json_depth.h"
#include "trainer/report/sink.h"

namespace cadre::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void add_load(RunData& run, const json& line, uint64_t step) {
  if (!line.contains("expert_load") || !line["expert_load"].is_object()) return;
  LoadSample sample{.step = step, .layers = {}};
  for (const auto& [layer, tokens] : line["expert_load"].items()) {
    const bool number =
        !layer.empty() && layer.size() < 7 && layer.find_first_not_of("0123456789") == std::string::npos;
    if (!number || !tokens.is_array()) continue;
    std::vector<double>& row = sample.layers[std::stoi(layer)];
    for (const json& n : tokens) row.push_back(n.is_number() ? n.get<double>() : 0);
  }
  if (!sample.layers.empty()) run.loads.push_back(std::move(sample));
}

// {"target": {"domain": value}} beside the same shape of errors.
void add_influence(RunData& run, const json& line, uint64_t step) {
  const json none = json::object();
  const json& values = line.value("influence", none);
  const json& errors = line.value("influence_se", none);
  if (!values.is_object() || !errors.is_object()) return;
  for (const auto& [target, domains] : values.items()) {
    if (!domains.is_object()) continue;
    for (const auto& [domain, value] : domains.items()) {
      if (!value.is_number()) continue;
      Influence& all = run.influence[target][domain];
      all.value.push_back({double(step), value.get<double>()});
      const json::json_pointer place = json::json_pointer() / target / domain;
      const bool known = errors.contains(place) && errors[place].is_number();
      all.error.push_back(known ? errors[place].get<double>() : NAN);
    }
  }
}

// {"layer": {"domain": [tokens by expert]}}
void add_domain_experts(RunData& run, const json& line) {
  if (!line.contains("domain_experts") || !line["domain_experts"].is_object()) return;
  run.domain_experts.clear();
  for (const auto& [layer, domains] : line["domain_experts"].items()) {
    const bool number =
        !layer.empty() && layer.size() < 7 && layer.find_first_not_of("0123456789") == std::string::npos;
    if (!number || !domains.is_object()) continue;
    for (const auto& [domain, tokens] : domains.items()) {
      if (!tokens.is_array()) continue;
      std::vector<double>& row = run.domain_experts[std::stoi(layer)][domain];
      for (const json& n : tokens) row.push_back(n.is_number() ? n.get<double>() : 0);
    }
  }
}

std::string text_of(const json& line, const char* key) {
  return line.contains(key) && line[key].is_string() ? line[key].get<std::string>() : "";
}

void add_line(RunData& run, const json& line) {
  if (!line.is_object() || !line.contains("step") || !line["step"].is_number_unsigned()) return;
  const uint64_t step = line["step"].get<uint64_t>();
  run.step = std::max(run.step, step);
  const std::string kind = text_of(line, "kind");
  if (kind == "event") run.events.push_back({step, text_of(line, "event"), text_of(line, "message")});
  if (kind == "probe") add_influence(run, line, step);
  if (kind != "train" && kind != "eval") return;
  auto& plain = kind == "train" ? run.train : run.eval;
  auto& parts = kind == "train" ? run.train_by : run.eval_by;
  for (const Scalar& s : scalars(line)) {
    (s.part.empty() ? plain[s.name] : parts[s.name][s.part]).push_back({double(step), s.value});
  }
  add_load(run, line, step);
  add_domain_experts(run, line);
}

}  // namespace

RunData read_run_folder(const fs::path& folder) {
  RunData run;
  const fs::path absolute = fs::absolute(folder).lexically_normal();
  run.name =
      absolute.has_filename() ? absolute.filename().string() : absolute.parent_path().filename().string();
  const fs::path metrics = folder / "metrics.jsonl";
  require(fs::exists(metrics), ExitCode::kData,
          "{}: no metrics.jsonl there; give the folder of a run (`out`)", folder.string());
  const std::string text = base::read_file(metrics, ExitCode::kData);
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    add_line(run, json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false));
  }
  if (fs::exists(folder / "config.resolved.yaml")) {
    run.config = base::read_file(folder / "config.resolved.yaml", ExitCode::kData);
  }
  if (fs::exists(folder / "environment.json")) {
    const std::string environment = base::read_file(folder / "environment.json", ExitCode::kData);
    if (base::json_depth(environment) <= base::kMaxJsonDepth)
      run.environment = json::parse(environment, nullptr, false);
  }
  return run;
}

}  // namespace cadre::report
