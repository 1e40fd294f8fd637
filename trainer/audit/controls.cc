#include "trainer/audit/controls.h"

#include <algorithm>
#include <cmath>

#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "parallel/base/rng.h"
#include "trainer/audit/derived_corpus.h"
#include "trainer/study/plots.h"
#include "trainer/study/statistics.h"

namespace cadre::audit {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kControls[] = {"permuted", "duplicated", "junk", "target"};
constexpr const char* kCopy = " (copy)";
constexpr const char* kJunk = "junk";

// Documents in an order that depends on the seed, for giving them each other's labels and choosing some.
std::vector<size_t> shuffled(size_t count, uint64_t seed) {
  const base::Philox random(base::mix(base::hash_name("controls"), seed));
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  for (size_t i = count; i-- > 1;) std::swap(order[i], order[size_t(random.uniform(i) * double(i + 1))]);
  return order;
}

std::vector<Part> units(const data::Corpus& text, int64_t passage) {
  return passage > 0 ? passages(text, passage) : whole_documents(text);
}

std::unique_ptr<data::Corpus> permuted(const data::Corpus& text, std::vector<Part> parts, uint64_t seed) {
  const std::vector<size_t> order = shuffled(parts.size(), seed);
  std::vector<int32_t> labels;
  for (const size_t i : order) labels.push_back(parts[i].domain);
  for (size_t i = 0; i < parts.size(); ++i) parts[i].domain = labels[i];
  return make_derived_corpus(text, domain_names(text), std::move(parts));
}

std::unique_ptr<data::Corpus> duplicated(const data::Corpus& text, std::vector<Part> parts, int domain) {
  std::vector<std::string> names = domain_names(text);
  const size_t count = parts.size();
  for (size_t i = 0; i < count; ++i) {
    if (parts[i].domain != domain) continue;
    parts.push_back(parts[i]);
    parts.back().domain = int32_t(names.size());
  }
  names.push_back(names[size_t(domain)] + kCopy);
  return make_derived_corpus(text, std::move(names), std::move(parts));
}

// As large as a domain is on average; every document is a shuffled one of the text.
std::unique_ptr<data::Corpus> with_junk(const data::Corpus& text, std::vector<Part> parts, uint64_t seed) {
  std::vector<std::string> names = domain_names(text);
  std::vector<size_t> order = shuffled(parts.size(), seed);
  order.resize(std::max<size_t>(1, order.size() / names.size()));
  for (const size_t i : order) {
    parts.push_back(parts[i]);
    parts.back().domain = int32_t(names.size());
    parts.back().shuffled = true;
  }
  names.push_back(kJunk);
  return make_derived_corpus(text, std::move(names), std::move(parts));
}

std::unique_ptr<data::Corpus> only(const data::Corpus& text, int domain) {
  std::vector<Part> parts;
  for (const Part& part : whole_documents(text)) {
    if (part.domain == domain) parts.push_back(part);
  }
  require(!parts.empty(), ExitCode::kData, "domain '{}' has no held-out text for the control 'target'",
          text.domain_name(domain));
  return make_derived_corpus(text, domain_names(text), std::move(parts));
}

trainer::Dataset tampered(const std::string& control, const trainer::Dataset& set, int64_t passage,
                          int domain, uint64_t seed) {
  const data::Corpus& text = *set.train;
  require(set.valid != nullptr, ExitCode::kData, "the controls need held-out text; prepare with --valid");
  std::vector<Part> parts = units(text, passage);
  if (control == "permuted") return with_training_text(set, permuted(text, std::move(parts), seed), nullptr);
  if (control == "duplicated")
    return with_training_text(set, duplicated(text, std::move(parts), domain), nullptr);
  if (control == "junk") return with_training_text(set, with_junk(text, std::move(parts), seed), nullptr);
  return with_training_text(set, make_derived_corpus(text, domain_names(text), std::move(parts)),
                            only(*set.valid, domain));
}

// Lines of metrics.jsonl of one kind.
std::vector<json> read_lines(const std::filesystem::path& folder, const std::string& kind) {
  std::vector<json> lines;
  const std::string text = base::read_file(folder / "metrics.jsonl", ExitCode::kData);
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    json line = json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false);
    if (line.is_object() && line.value("kind", "") == kind) lines.push_back(std::move(line));
  }
  return lines;
}

// The first train line's weights, and the mean over the second half.
void read_weights(const std::filesystem::path& folder, ControlRun& run) {
  const std::vector<json> lines = read_lines(folder, "train");
  require(!lines.empty(), ExitCode::kData, "{}: no train lines in metrics.jsonl; lower log.every",
          folder.string());
  run.prior = lines.front().at("domain_weight").get<std::map<std::string, double>>();
  const size_t half = lines.size() / 2;
  for (size_t i = half; i < lines.size(); ++i) {
    for (const auto& [name, weight] : lines[i].at("domain_weight").items())
      run.weights[name] += weight.get<double>() / double(lines.size() - half);
  }
}

// Of the first target.
double read_deviation(const std::filesystem::path& folder) {
  std::vector<std::pair<std::vector<double>, std::vector<double>>> probes;
  for (const json& line : read_lines(folder, "probe")) {
    auto& [value, error] = probes.emplace_back();
    const json& errors = line.at("influence_se").front();
    for (const auto& [domain, influence] : line.at("influence").front().items()) {
      value.push_back(influence.get<double>());
      error.push_back(errors.at(domain).get<double>());
    }
  }
  return relative_deviation(probes);
}

json to_json(const ControlRun& run) {
  return {{"prior", run.prior}, {"weights", run.weights}, {"deviation", run.deviation}};
}

study::Table table_of(const std::vector<ControlRun>& runs) {
  study::Table table = {{"control", "domain", "seed", "outcome", "measure", "deviation", "weights (prior)"}};
  for (const ControlRun& run : runs) {
    std::string weights;
    for (const auto& [name, w] : run.weights)
      weights +=
          fmt::format("{}{} {:.3f} ({:.3f})", weights.empty() ? "" : ", ", name, w, run.prior.at(name));
    table.push_back({run.control, run.domain, std::to_string(run.seed), run.passed ? "as expected" : "WRONG",
                     fmt::format("{:.3f}", run.measure),
                     std::isfinite(run.deviation) ? fmt::format("{:.2f}", run.deviation) : "-", weights});
  }
  return table;
}

std::string note_of(const std::vector<ControlRun>& runs) {
  const auto passed = std::count_if(runs.begin(), runs.end(), [](const ControlRun& r) { return r.passed; });
  return fmt::format(
      "{} of {} as expected. Measures: permuted, distance from the prior; duplicated, difference of the two "
      "over their mean; junk, its share of its "
      "prior; target, how much more its domain gained than the next. Deviation: root mean square of domains' "
      "differences from their mean over the errors of these; 1 where domains do not differ.",
      passed, runs.size());
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

double relative_deviation(const std::vector<std::pair<std::vector<double>, std::vector<double>>>& probes) {
  double squares = 0;
  int64_t count = 0;
  for (const auto& [value, error] : probes) {
    const double n = double(value.size());
    double mean = 0, errors = 0;
    for (size_t k = 0; k < value.size(); ++k) mean += value[k] / n, errors += error[k] * error[k];
    for (size_t k = 0; k < value.size(); ++k) {
      // value_k - mean holds value_k with the factor 1 - 1/n and each of the others with 1/n.
      const double own = error[k] * error[k];
      const double variance = own * (1 - 1 / n) * (1 - 1 / n) + (errors - own) / (n * n);
      if (variance <= 0) continue;
      squares += (value[k] - mean) * (value[k] - mean) / variance;
      ++count;
    }
  }
  return count > 0 ? std::sqrt(squares / double(count)) : NAN;
}

bool measure_controls(const ControlsConfig& config, const std::filesystem::path& checkpoint,
                      const AuditContext& context, Journal& journal, std::vector<ControlRun>& result) {
  const data::Corpus& text = *context.dataset.train;
  for (const char* control : kControls) {
    for (const int64_t seed : config.seeds) {
      const int domain = int(seed % text.num_domains());  // another one for each seed
      ControlRun run{.control = control,
                     .domain = text.domain_name(domain),
                     .seed = seed,
                     .passed = false,
                     .prior = {},
                     .weights = {},
                     .measure = 0,
                     .deviation = NAN};
      if (run.control == "permuted") run.domain = "all";
      if (run.control == "junk") run.domain = kJunk;
      const std::string key = fmt::format("control {} {}", control, seed);
      if (journal.find(key) == nullptr) {
        if (!context.keep_going()) return false;
        const trainer::Dataset set =
            tampered(control, context.dataset, config.passage, domain, uint64_t(seed));
        study::Overrides overrides = {{"init", checkpoint.string()}};
        overrides.insert(overrides.end(), config.set.begin(), config.set.end());
        overrides.insert(overrides.end(), {{"mixer", config.mixer},
                                           {"seed", std::to_string(seed)},
                                           {"log.every", "1"},
                                           {"eval.every", "0"}});
        const auto done =
            retrain(context, fmt::format("{}-{}", control, seed), set, overrides, [&](const auto& folder) {
              read_weights(folder, run);
              run.deviation = read_deviation(folder);
            });
        if (!done) return false;
        journal.add(key, to_json(run));
      }
      const json& saved = *journal.find(key);
      run.prior = saved.at("prior").get<std::map<std::string, double>>();
      run.weights = saved.at("weights").get<std::map<std::string, double>>();
      // JSON has no NaN: null stands for it.
      const json& deviation = saved.at("deviation");
      run.deviation = deviation.is_number() ? deviation.get<double>() : NAN;
      judge(config, run);
      spdlog::info("control {}, seed {}: {} ({:.3f})", control, seed, run.passed ? "as expected" : "WRONG",
                   run.measure);
      result.push_back(std::move(run));
    }
  }
  return true;
}

ordered_json controls_json(const std::vector<ControlRun>& runs) {
  ordered_json out = ordered_json::array();
  for (const ControlRun& r : runs) {
    out.push_back({{"control", r.control},
                   {"domain", r.domain},
                   {"seed", r.seed},
                   {"passed", r.passed},
                   {"measure", r.measure},
                   {"deviation", r.deviation},
                   {"prior", r.prior},
                   {"weights", r.weights}});
  }
  return out;
}

std::string controls_markdown(const std::vector<ControlRun>& runs) {
  return "## Null controls\n\n" + note_of(runs) + "\n\n" + study::markdown_table(table_of(runs));
}

std::string controls_html(const std::vector<ControlRun>& runs) {
  return study::html_section("Null controls", note_of(runs), "stack", study::html_table(table_of(runs)));
}

}  // namespace cadre::audit
