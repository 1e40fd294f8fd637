#include "trainer/study/study_grid.h"

#include <algorithm>
#include <set>

namespace cadre::study {
namespace {

struct Choice {
  std::string label;
  Overrides overrides;
};
struct Axis {
  std::string name, where;  // where: "study.yaml:7: study.axes.mixer"
  std::vector<Choice> choices;
};

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

// Finds the words that stand for other runs. They must come before this one.
void find_references(const std::vector<Axis>& axes, const std::vector<size_t>& at,
                     const std::vector<StudyRun>& before, StudyRun& run) {
  for (const auto& [key, value] : run.overrides) {
    each_scalar(YAML::Load(value), [&, &key = key](const YAML::Node& scalar) {
      const std::string& word = scalar.Scalar();
      const size_t colon = word.find(':');
      const std::string kind = colon == std::string::npos ? "" : word.substr(0, colon);
      if (kind != "average" && kind != "run" && kind != "stage" && kind != "best") return;
      const std::string target = word.substr(colon + 1);
      Reference reference{kind == "average" ? Reference::kAverage
                          : kind == "best"  ? Reference::kBest
                                            : Reference::kRun,
                          kind == "stage" ? target : name_of(axes, at, true, target),
                          {}};
      bool found = false;
      for (const StudyRun& r : before) {
        if (kind == "best" && r.part == Part::kSweep && r.variant == target)
          reference.candidates.emplace_back(r.name, r.swept);
        found = found || !reference.candidates.empty() ||
                (kind != "best" && r.name == reference.run && (r.part == Part::kStage) == (kind == "stage"));
      }
      require(found, ExitCode::kUsage,
              "{}: '{}' of run '{}' stands for {} '{}', which is not among those above it", key, word,
              run.name,
              kind == "stage"  ? "stage"
              : kind == "best" ? "swept variant"
                               : "variant",
              target);
      run.references[word] = std::move(reference);
    });
  }
}

void combine(const std::vector<Axis>& axes, const Overrides& set, Part part, std::vector<StudyRun>& runs) {
  const std::string prefix = part == Part::kSweep ? "sweep," : "";
  std::vector<size_t> at(axes.size(), 0);
  while (true) {
    StudyRun run{.name = prefix + name_of(axes, at, true, ""),
                 .cell = prefix + name_of(axes, at, false, ""),
                 .part = part,
                 .overrides = set};
    for (size_t a = 0; a < axes.size(); ++a) {
      const Choice& choice = axes[a].choices[at[a]];
      run.overrides.insert(run.overrides.end(), choice.overrides.begin(), choice.overrides.end());
      if (axes[a].name == "seed") run.seed = choice.label;
      (axes[a].name == "variant" ? run.variant : run.swept) =
          axes[a].name == "variant" ? choice.label : choice.overrides.front().second;
    }
    find_references(axes, at, runs, run);
    runs.push_back(std::move(run));
    size_t a = axes.size();
    while (a > 0 && ++at[a - 1] == axes[a - 1].choices.size()) at[--a] = 0;
    if (a == 0) return;
  }
}

}  // namespace

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

Overrides overrides_of(const base::Section& section, const YAML::Node& map) {
  Overrides out;
  if (!map.IsDefined() || map.IsNull()) return out;
  for (const auto& entry : map) {
    if (entry.second.IsNull()) section.reject(entry.first.Scalar(), "has no value");
    out.emplace_back(entry.first.Scalar(), one_line(entry.second));
  }
  return out;
}

void each_scalar(YAML::Node node, const std::function<void(YAML::Node)>& body) {
  if (node.IsScalar()) return body(node);
  if (node.IsMap()) {
    for (auto entry : node) each_scalar(entry.second, body);
  } else if (node.IsSequence()) {
    for (auto item : node) each_scalar(item, body);
  }
}

void add_grid(base::Section& section, Part part, std::vector<StudyRun>& runs) {
  const Overrides set = read_overrides(section, "set");
  std::vector<Axis> axes = read_axes(section.section("axes"));
  Axis variants = read_variants(section.section("variants"));
  if (part == Part::kSweep && (axes.size() != 1 || variants.choices.empty()))
    section.reject("", "expected `variants` and, in `axes`, the one key that is swept");
  if (!variants.choices.empty()) axes.insert(axes.begin(), std::move(variants));
  for (const Axis& axis : axes) require_different(axis);
  combine(axes, set, part, runs);
}

void add_stages(const base::Section& section, std::vector<StudyRun>& runs) {
  if (!section.node().IsDefined() || section.node().IsNull()) return;
  if (!section.node().IsMap()) section.reject("", "expected a map of names, each with a `base` and a `set`");
  for (const auto& entry : section.node()) {
    const std::string name = entry.first.Scalar();
    if (label_of(entry.first) != name || name.empty())
      section.reject(name, "names a folder: use letters, digits and . _ + = -");
    base::Section stage(entry.second, section.source(), section.path() + "." + name);
    StudyRun run{.name = name, .cell = name, .part = Part::kStage};
    run.base = read_base(stage);
    run.overrides = read_overrides(stage, "set");
    stage.finish();
    find_references({}, {}, runs, run);
    runs.push_back(std::move(run));
  }
}

}  // namespace cadre::study
