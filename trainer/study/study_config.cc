#include "trainer/study/study_config.h"

#include <algorithm>
#include <functional>
#include <set>

#include "trainer/run/initial_model.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;

struct Choice {
  std::string label;
  Overrides overrides;
};
struct Axis {
  std::string name, where;  // where: "study.yaml:7: study.axes.mixer"
  std::vector<Choice> choices;
};

// One line of YAML that reads back as the node.
std::string one_line(const YAML::Node& node) {
  if (node.IsScalar() && node.Scalar().empty()) return "''";
  if (node.IsScalar() && node.Tag() != "!") return node.Scalar();
  YAML::Emitter out;
  out.SetMapFormat(YAML::Flow);
  out.SetSeqFormat(YAML::Flow);
  out << node;
  return out.c_str();
}

// A part of a folder's name: "{name: gim, period: 50}" becomes "gim,period=50".
std::string label_of(const YAML::Node& node) {
  std::string text;
  const auto add = [&](const char* between, const std::string& what) {
    if (!text.empty()) text.append(between);
    text.append(what);
  };
  if (node.IsMap()) {
    for (const auto& entry : node) {
      const std::string key = entry.first.Scalar(), value = label_of(entry.second);
      add(",", key == "name" ? value : fmt::format("{}={}", key, value));
    }
  } else if (node.IsSequence()) {
    for (const auto& item : node) add("+", label_of(item));
  } else {
    text = node.Scalar();
  }
  for (char& c : text) {
    const bool fine = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                      std::string_view(",.=+-_").find(c) != std::string_view::npos;
    if (!fine) c = '_';
  }
  constexpr size_t kLongest = 80;
  return text.substr(0, kLongest);
}

std::string where(const base::Section& section, const YAML::Node& node, const std::string& key) {
  return fmt::format("{}:{}: {}.{}", section.source(), node.Mark().line + 1, section.path(), key);
}

Overrides overrides_of(const base::Section& section, const YAML::Node& map) {
  Overrides out;
  if (!map.IsDefined() || map.IsNull()) return out;
  for (const auto& entry : map) {
    if (entry.second.IsNull()) section.reject(entry.first.Scalar(), "has no value");
    out.emplace_back(entry.first.Scalar(), one_line(entry.second));
  }
  return out;
}

std::vector<Axis> read_axes(const base::Section& section) {
  std::vector<Axis> axes;
  if (!section.node().IsDefined() || section.node().IsNull()) return axes;
  if (!section.node().IsMap())
    section.reject("", "expected a map of run-file keys, each with a list of values");
  for (const auto& entry : section.node()) {
    const std::string key = entry.first.Scalar();
    if (!entry.second.IsSequence() || entry.second.size() == 0)
      section.reject(key, "expected a list of at least one value");
    Axis axis{key, where(section, entry.first, key), {}};
    for (const auto& value : entry.second)
      axis.choices.push_back({label_of(value), {{key, one_line(value)}}});
    axes.push_back(std::move(axis));
  }
  return axes;
}

Axis read_variants(const base::Section& section) {
  Axis axis{"variant", "", {}};
  if (!section.node().IsDefined() || section.node().IsNull()) return axis;
  if (!section.node().IsMap())
    section.reject("", "expected a map of names, each with a map of run-file keys");
  for (const auto& entry : section.node()) {
    const std::string name = entry.first.Scalar();
    if (label_of(entry.first) != name || name.empty())
      section.reject(name, "names a folder: use letters, digits and . _ + = -");
    if (!entry.second.IsMap() && !entry.second.IsNull())
      section.reject(name, "expected a map of run-file keys");
    axis.choices.push_back(
        {name, overrides_of(base::Section(entry.second, section.source(), section.path() + "." + name),
                            entry.second)});
    if (axis.where.empty()) axis.where = where(section, entry.first, name);
  }
  return axis;
}

void require_different(const Axis& axis) {
  std::set<std::string> labels;
  for (const Choice& choice : axis.choices) {
    require(labels.insert(choice.label).second, ExitCode::kUsage, "{}: '{}' stands there twice", axis.where,
            choice.label);
  }
}

// The part of a run's name that an axis gives: its value alone where that says enough.
std::string part_of(const Axis& axis, const Choice& choice) {
  if (axis.name == "variant") return choice.label;
  const size_t dot = axis.name.rfind('.');
  return (dot == std::string::npos ? axis.name : axis.name.substr(dot + 1)) + "=" + choice.label;
}

std::string joined(const std::string& a, const std::string& b) {
  return a.empty() ? b : a + "," + b;
}

// The name of a combination, with another variant when `variant` is not empty.
std::string name_of(const std::vector<Axis>& axes, const std::vector<size_t>& at, bool with_seed,
                    const std::string& variant) {
  std::string name;
  for (size_t a = 0; a < axes.size(); ++a) {
    if (axes[a].name == "seed" && !with_seed) continue;
    const bool other = axes[a].name == "variant" && !variant.empty();
    name = joined(name, other ? variant : part_of(axes[a], axes[a].choices[at[a]]));
  }
  return name.empty() ? "run" : name;
}

void each_scalar(YAML::Node node, const std::function<void(YAML::Node)>& body) {
  if (node.IsScalar()) return body(node);
  if (node.IsMap()) {
    for (auto entry : node) each_scalar(entry.second, body);
  } else if (node.IsSequence()) {
    for (auto item : node) each_scalar(item, body);
  }
}

// Finds the words that stand for other runs. They must come before this one.
void find_references(const std::vector<Axis>& axes, const std::vector<size_t>& at,
                     const std::vector<StudyRun>& before, StudyRun& run) {
  for (const auto& [key, value] : run.overrides) {
    each_scalar(YAML::Load(value), [&, &key = key](const YAML::Node& scalar) {
      const std::string& word = scalar.Scalar();
      const bool average = word.starts_with("average:");
      if (!average && !word.starts_with("run:")) return;
      const std::string variant = word.substr(word.find(':') + 1), name = name_of(axes, at, true, variant);
      const bool found =
          std::any_of(before.begin(), before.end(), [&](const StudyRun& r) { return r.name == name; });
      require(found, ExitCode::kUsage,
              "{}: '{}' of run '{}' stands for variant '{}', which is not among those above it", key, word,
              run.name, variant);
      run.references[word] = {average ? Reference::kAverage : Reference::kRun, name};
    });
  }
}

std::vector<StudyRun> combine(const std::vector<Axis>& axes, const Overrides& set) {
  std::vector<StudyRun> runs;
  std::vector<size_t> at(axes.size(), 0);
  while (true) {
    StudyRun run{name_of(axes, at, true, ""), name_of(axes, at, false, ""), "", set, {}};
    for (size_t a = 0; a < axes.size(); ++a) {
      const Choice& choice = axes[a].choices[at[a]];
      run.overrides.insert(run.overrides.end(), choice.overrides.begin(), choice.overrides.end());
      if (axes[a].name == "seed") run.seed = choice.label;
    }
    find_references(axes, at, runs, run);
    runs.push_back(std::move(run));
    size_t a = axes.size();
    while (a > 0 && ++at[a - 1] == axes[a - 1].choices.size()) at[--a] = 0;
    if (a == 0) return runs;
  }
}

// Reads the run as far as is possible before others have run. Files it refers to are not there yet.
void check_run(const StudyConfig& study, const StudyRun& run) {
  for (const auto& [key, value] : run.overrides) {
    require(key != "out", ExitCode::kUsage, "run '{}': `out` is given by the study", run.name);
  }
  try {
    configure(study, run, [](const Reference&) { return std::string(); });
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
  study.metric = section.choice("metric", study.metric, {"eval_loss", "eval_bpb", "train_loss"});
  study.keep_checkpoints = section.boolean("keep_checkpoints", study.keep_checkpoints);
  const Overrides set = read_overrides(section, "set");
  std::vector<Axis> axes = read_axes(section.section("axes"));
  Axis variants = read_variants(section.section("variants"));
  section.finish();
  if (!variants.choices.empty()) axes.insert(axes.begin(), std::move(variants));
  for (const Axis& axis : axes) require_different(axis);
  study.runs = combine(axes, set);
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
  return trainer::load_run(study.base, arguments);
}

}  // namespace cadre::study
