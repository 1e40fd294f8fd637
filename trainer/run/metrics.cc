#include "trainer/run/metrics.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>

#include "data/influence_estimate.h"
#include "moe/placement.h"
#include "parallel/base/log.h"

namespace cadre::trainer {
namespace {

using nlohmann::json;

// Lines of an older file that the resumed run keeps. A last line that a crash cut short is dropped.
std::string kept_lines(const std::filesystem::path& path, uint64_t resumed_step) {
  if (!std::filesystem::exists(path)) return "";
  const std::string text = base::read_file(path, ExitCode::kCheckpoint);
  std::string kept;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const json line = json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_unsigned()) continue;
    if (line["step"].get<uint64_t>() <= resumed_step) kept.append(text, at, end + 1 - at);
  }
  return kept;
}

double peak_memory_gib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return double(usage.ru_maxrss) / (1 << 20);  // kB
}

json by_domain(const data::Corpus& corpus, const std::vector<double>& values) {
  json out = json::object();
  for (int k = 0; k < corpus.num_domains(); ++k) {
    if (std::isfinite(values[size_t(k)])) out[corpus.domain_name(k)] = values[size_t(k)];
  }
  return out;
}

// Numbers are written with six digits where more would be noise; null for what is not finite.
json rounded(double x) {
  return std::isfinite(x) ? json::parse(fmt::format("{:.6g}", x)) : json();
}

}  // namespace

MetricsFile::MetricsFile(const std::filesystem::path& path, uint64_t resumed_step) : path_(path) {
  open(resumed_step);
}

void MetricsFile::rewind(uint64_t step) {
  for (const auto& sink : sinks_) sink->rewind(step);
  open(step);
}

void MetricsFile::open(uint64_t step) {
  const std::string kept = step > 0 ? kept_lines(path_, step) : "";
  // The file that is renamed into place stays open, so that later lines are appended to it.
  const std::filesystem::path temporary = path_.string() + ".tmp";
  file_ = std::make_unique<base::FileWriter>(temporary, ExitCode::kCheckpoint);
  file_->write(kept);
  base::rename_durably(temporary, path_, ExitCode::kCheckpoint);
}

void MetricsFile::write(const json& line) {
  for (const auto& sink : sinks_) sink->line(line);
  try {
    // Ends what a failed write may have left; readers pass over a line that they cannot parse.
    std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace);
    text += '\n';
    if (broken_) text.insert(text.begin(), '\n');
    file_->write(text);
    broken_ = false;
  } catch (const Error& error) {
    if (!broken_) spdlog::warn("metrics are lost until this is over: {}", error.what());
    broken_ = true;
  }
}

LoadBalance load_balance(const std::vector<std::vector<double>>& expert_tokens) {
  LoadBalance result;
  for (const auto& layer : expert_tokens) {
    double sum = 0, squares = 0, most = 0;
    for (double n : layer) {
      sum += n;
      squares += n * n;
      most = std::max(most, n);
    }
    const double mean = sum / double(layer.size());
    if (mean == 0) continue;
    result.max_over_mean = std::max(result.max_over_mean, most / mean);
    const double variance = std::max(0.0, squares / double(layer.size()) - mean * mean);
    result.cv += std::sqrt(variance) / mean / double(expert_tokens.size());
  }
  return result;
}

double fullest_rank(const std::vector<std::vector<double>>& expert_tokens, int ranks) {
  double sum = 0;
  for (const auto& layer : expert_tokens) sum += moe::fullest_rank(layer, ranks);
  return expert_tokens.empty() ? 1 : sum / double(expert_tokens.size());
}

json train_line(const TrainState& state, const StepReport& report, const StepTimes& times, bool expert_load) {
  const LoadBalance load = load_balance(report.expert_tokens);
  json line = {{"kind", "train"},
               {"step", state.progress.step},
               {"tokens", state.progress.tokens},
               {"loss", report.loss},  // all digits: curves are compared bit by bit
               {"aux_loss", report.aux_loss},
               {"z_loss", report.z_loss},
               {"lr", report.lr},
               {"grad_norm", report.grad_norm},
               {"tokens_per_s", rounded(times.tokens_per_s)},
               {"step_ms", rounded(times.step_ms)},
               {"data_wait_ms", rounded(times.data_wait_ms)},
               {"comm_exposed_ms", rounded(times.comm_exposed_ms)},
               {"mem_gib", rounded(peak_memory_gib())},
               {"domain_loss", by_domain(*state.dataset.train, report.domain_loss)},
               {"domain_weight", by_domain(*state.dataset.train, report.domain_weight)},
               {"dropped_tokens", report.dropped_tokens},
               {"skipped_steps", state.counters.skipped_steps}};
  for (const auto& [name, value] : report.objective) line[name] = value;
  if (report.source.is_object()) line.update(report.source);
  if (times.mfu > 0) line["mfu"] = rounded(times.mfu);
  if (report.expert_tokens.empty()) return line;
  line["expert_load_max_over_mean"] = rounded(load.max_over_mean);
  line["expert_load_cv"] = rounded(load.cv);
  if (const int ranks = state.config().mesh.ep; ranks > 1 && !shares_widths(state.model))
    line["rank_load_max_over_mean"] = rounded(fullest_rank(report.expert_tokens, ranks));
  for (const LayerDomains& layer : report.domain_experts) {
    json& out = line["domain_experts"][std::to_string(layer.layer)];
    for (size_t k = 0; k < layer.tokens.size(); ++k)
      out[state.dataset.train->domain_name(int(k))] = layer.tokens[k];
  }
  if (!expert_load) return line;
  size_t moe_layer = 0;
  const ModelConfig& model = state.config().model;
  for (int layer = 0; layer < model.layers; ++layer) {
    if (model.is_moe(layer)) line["expert_load"][std::to_string(layer)] = report.expert_tokens[moe_layer++];
  }
  return line;
}

json eval_line(uint64_t step, const std::vector<DomainScore>& scores) {
  json line = {{"kind", "eval"}, {"step", step}, {"eval_loss", json::object()}};
  for (const DomainScore& s : scores) {
    if (s.tokens == 0) continue;
    line["eval_loss"][s.domain] = s.loss();
    if (s.bytes > 0) line["eval_bpb"][s.domain] = s.bits_per_byte();  // not of answers and pairs
  }
  return line;
}

json reward_line(uint64_t step, const std::vector<RewardScore>& scores) {
  json line = {{"kind", "eval"}, {"step", step}};
  for (const RewardScore& s : scores) {
    if (s.prompts == 0) continue;
    line["eval_reward"][s.domain] = s.reward;
    line["eval_length"][s.domain] = s.length;
  }
  return line;
}

json probe_line(const TrainState& state, const ProbeReport& report) {
  json line = {{"kind", "probe"},
               {"step", state.progress.step},
               {"influence", json::object()},
               {"influence_se", json::object()},
               {"tokens", json::object()},
               {"identity_error", rounded(report.identity_error)}};
  for (size_t i = 0; i < report.targets.size(); ++i) {
    const data::InfluenceEstimate estimate = data::estimate_influence(report.sums[i]);
    line["influence"][report.targets[i]] = by_domain(*state.dataset.train, estimate.value);
    line["influence_se"][report.targets[i]] = by_domain(*state.dataset.train, estimate.error);
    line["tokens"][report.targets[i]] = by_domain(*state.dataset.train, report.sums[i].tokens);
  }
  return line;
}

json event_line(uint64_t step, const std::string& event, const std::string& message) {
  return {{"kind", "event"}, {"step", step}, {"event", event}, {"message", message}};
}

}  // namespace cadre::trainer
