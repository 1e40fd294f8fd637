#include "trainer/study/run_result.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "parallel/base/files.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

template <class Body>
void each_line(const fs::path& run_folder, const Body& body) {
  const std::string text = base::read_file(run_folder / "metrics.jsonl", ExitCode::kData);
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const json line = json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false);
    if (line.is_object() && line.contains("kind") && line.contains("step")) body(line);
  }
}

struct Mean {
  double mean = 0, worst = -INFINITY;
  std::map<std::string, double> parts;
};
Mean mean_of(const json& parts, bool higher_is_better) {
  Mean result;
  if (higher_is_better) result.worst = INFINITY;
  for (const auto& [name, value] : parts.items()) {
    if (!value.is_number()) continue;
    result.parts[name] = value.get<double>();
    result.worst = higher_is_better ? std::min(result.worst, value.get<double>())
                                    : std::max(result.worst, value.get<double>());
    result.mean += value.get<double>();
  }
  result.mean /= double(result.parts.size());
  return result;
}

double collapse_step(const std::vector<std::pair<double, double>>& curve) {
  double best = -INFINITY, step = NAN;
  for (const auto& [at, value] : curve) {
    best = std::max(best, value);
    const bool low = value < best / 2;
    if (low && std::isnan(step)) step = at;
    if (!low) step = NAN;
  }
  return step;
}

}  // namespace

RunResult read_result(const fs::path& run_folder, const std::string& metric) {
  RunResult result;
  const bool rewards = metric == "eval_reward";
  double ess = NAN, ess_sum = 0, rounds = 0;  // ess: of the update before
  each_line(run_folder, [&](const json& line) {
    const std::string kind = line["kind"];
    if (kind == "train") {
      result.steps = line["step"];
      result.tokens = line.value("tokens", uint64_t(0));
      if (line.contains("rollout_ms") && !std::isnan(ess)) ess_sum += ess, ++rounds;
      const auto fraction = line.find("ess_fraction");
      ess = fraction != line.end() && fraction->is_number() ? fraction->get<double>() : NAN;
    }
    if (metric == "train_loss" ? kind != "train" : kind != "eval") return;
    const char* key = metric == "train_loss" ? "domain_loss" : metric.c_str();
    if (!line.contains(key) || !line[key].is_object() || line[key].empty()) return;
    const Mean mean = mean_of(line[key], rewards);
    result.value = mean.mean;
    result.worst = mean.worst;
    result.domains = mean.parts;
    result.curve.emplace_back(line["step"].get<double>(), mean.mean);
  });
  require(!result.curve.empty() && std::isfinite(result.value), ExitCode::kData,
          "{}: no finite {} in metrics.jsonl; does the data have held-out text (cadre prepare --valid)?",
          run_folder.string(), metric);
  if (!rewards) return result;
  if (!std::isnan(ess)) ess_sum += ess, ++rounds;
  result.reward = {-INFINITY, collapse_step(result.curve), rounds > 0 ? ess_sum / rounds : NAN};
  for (const auto& [step, value] : result.curve) result.reward.best = std::max(result.reward.best, value);
  const size_t last = std::min<size_t>(3, result.curve.size());
  result.value = 0;
  for (size_t i = result.curve.size() - last; i < result.curve.size(); ++i)
    result.value += result.curve[i].second / double(last);
  return result;
}

std::map<std::string, double> average_weights(const fs::path& run_folder) {
  std::map<std::string, double> sum;
  double lines = 0;
  each_line(run_folder, [&](const json& line) {
    if (line["kind"] != "train" || !line.contains("domain_weight")) return;
    for (const auto& [name, weight] : line["domain_weight"].items()) {
      if (weight.is_number()) sum[name] += weight.get<double>();
    }
    ++lines;
  });
  require(lines > 0, ExitCode::kData, "{}: no domain weights in metrics.jsonl", run_folder.string());
  for (auto& [name, weight] : sum) weight /= lines;
  return sum;
}

}  // namespace cadre::study
