#include "trainer/audit/controls.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/log.h"
#include "trainer/audit/tampered_text.h"

namespace cadre::audit {
namespace {

using nlohmann::json;

constexpr const char* kControls[] = {"permuted", "duplicated", "junk", "target"};

std::string key_of(const ControlRun& run) {
  return fmt::format("control {} {}", run.control, run.seed);
}

json to_json(const ControlRun& run) {
  return {{"prior", run.prior}, {"weights", run.weights}, {"deviation", run.deviation}};
}
void from_json(const json& saved, ControlRun& run) {
  run.prior = saved.at("prior").get<std::map<std::string, double>>();
  run.weights = saved.at("weights").get<std::map<std::string, double>>();
  // JSON has no NaN: null stands for it.
  const json& deviation = saved.at("deviation");
  run.deviation = deviation.is_number() ? deviation.get<double>() : NAN;
}

// Trains one run; nothing when it was asked to stop.
std::optional<json> train_run(const ControlsConfig& config, const std::filesystem::path& checkpoint,
                              const AuditContext& context, const ControlRun& run, int domain) {
  const trainer::Dataset set =
      tampered(run.control, context.dataset, config.passage, domain, uint64_t(run.seed));
  study::Overrides overrides = {{"init", checkpoint.string()}};
  overrides.insert(overrides.end(), config.set.begin(), config.set.end());
  overrides.insert(
      overrides.end(),
      {{"mixer", config.mixer}, {"seed", std::to_string(run.seed)}, {"log.every", "1"}, {"eval.every", "0"}});
  ControlRun measured;
  const auto done = retrain(context, fmt::format("{}-{}", run.control, run.seed), set, overrides,
                            [&](const auto& folder) { read_run(folder, measured); });
  if (!done) return std::nullopt;
  return to_json(measured);
}

}  // namespace

ControlsConfig read_controls(base::Section s) {
  ControlsConfig c;
  c.seeds = s.integers("seeds", c.seeds, {.min = 0});
  if (s.has("mixer")) c.mixer = study::read_value(s, "mixer");
  c.passage = s.integer("passage", c.passage, {.min = 0});
  if (c.passage == 1) s.reject("passage", "a document has at least 2 tokens");
  c.set = study::read_overrides(s, "set");
  c.permuted_distance = s.number("permuted_distance", c.permuted_distance, {.above = 0});
  c.duplicate_ratio = s.number("duplicate_ratio", c.duplicate_ratio, {.above = 0});
  s.finish();
  return c;
}

void judge(const ControlsConfig& config, ControlRun& run) {
  const auto gain = [&](const std::string& name) { return run.weights.at(name) / run.prior.at(name); };
  if (run.control == "permuted") {
    run.measure = 0;
    for (const auto& [name, w] : run.weights) run.measure += std::abs(w - run.prior.at(name)) / 2;
    run.passed = run.measure <= config.permuted_distance;
  } else if (run.control == "duplicated") {
    const double a = run.weights.at(run.domain), b = run.weights.at(run.domain + kCopy);
    run.measure = 2 * std::abs(a - b) / (a + b);
    run.passed = run.measure <= config.duplicate_ratio;
  } else if (run.control == "junk") {
    run.measure = gain(kJunk);
    bool lowest = true;
    for (const auto& [name, w] : run.weights) lowest = lowest && (name == kJunk || w > run.weights.at(kJunk));
    run.passed = lowest && run.measure < 0.5;
  } else {
    double next = 0;
    for (const auto& [name, w] : run.weights) next = name == run.domain ? next : std::max(next, gain(name));
    run.measure = gain(run.domain) - next;
    run.passed = run.measure > 0;
  }
}

bool measure_controls(const ControlsConfig& config, const std::filesystem::path& checkpoint,
                      const AuditContext& context, Journal& journal, std::vector<ControlRun>& result) {
  const data::Corpus& text = *context.dataset.train;
  const auto domain_of = [&](const ControlRun& run) { return int(run.seed % text.num_domains()); };
  std::vector<ControlRun> runs;
  std::vector<std::string> keys;
  for (const char* control : kControls) {
    for (const int64_t seed : config.seeds) {
      ControlRun run;
      run.control = control;
      run.seed = seed;
      run.domain = text.domain_name(domain_of(run));  // another one for each seed
      if (run.control == "permuted") run.domain = "all";
      if (run.control == "junk") run.domain = kJunk;
      keys.push_back(key_of(run));
      runs.push_back(std::move(run));
    }
  }
  const auto make = [&](size_t i) {
    spdlog::info("{}", keys[i]);
    return train_run(config, checkpoint, context, runs[i], domain_of(runs[i]));
  };
  const bool whole = journal.make_all(keys, make, context.keep_going);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (journal.find(keys[i]) == nullptr) continue;
    from_json(*journal.find(keys[i]), runs[i]);
    judge(config, runs[i]);
    spdlog::info("control {}, seed {}: {} ({:.3f})", runs[i].control, runs[i].seed,
                 runs[i].passed ? "as expected" : "WRONG", runs[i].measure);
    result.push_back(std::move(runs[i]));
  }
  return whole;
}

}  // namespace cadre::audit
