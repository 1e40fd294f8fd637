#include "parallel/base/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "parallel/base/errors.h"

namespace cadre::base {
namespace {

std::string join(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string child_path(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

// What an error message shows of a value: short, on one line.
std::string show(const YAML::Node& node) {
  constexpr size_t kMaxShown = 60;
  if (!node.IsDefined() || node.IsNull()) return "nothing";
  if (node.IsMap()) return "a map";
  if (node.IsSequence()) return fmt::format("a list of {}", node.size());
  std::string text = node.Scalar().substr(0, kMaxShown);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  const bool quoted = node.Tag() == "!";
  return fmt::format("{}'{}{}'", quoted ? "text " : "", text, node.Scalar().size() > kMaxShown ? "..." : "");
}

// A quoted scalar is text, even when it looks like a number.
bool is_plain(const YAML::Node& node) {
  return node.IsScalar() && node.Tag() != "!";
}

template <class T>
bool parse_plain(const YAML::Node& node, T& value) {
  if (!is_plain(node)) return false;
  const std::string& text = node.Scalar();
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool parse_integer(const YAML::Node& node, IntRange range, int64_t& value) {
  return parse_plain(node, value) && value >= range.min && value <= range.max;
}

bool parse_number(const YAML::Node& node, NumberRange range, double& value) {
  return parse_plain(node, value) && std::isfinite(value) && value >= range.min && value <= range.max &&
         value > range.above && value < range.below;
}

std::string describe(const char* what, IntRange range) {
  constexpr IntRange all;
  std::string text = what;
  if (range.min != all.min && range.max != all.max) {
    return text + fmt::format(" from {} to {}", range.min, range.max);
  }
  if (range.min != all.min) text += fmt::format(" of at least {}", range.min);
  if (range.max != all.max) text += fmt::format(" of at most {}", range.max);
  return text;
}

std::string describe(const char* what, NumberRange range) {
  std::vector<std::string> bounds;
  if (std::isfinite(range.min)) bounds.push_back(fmt::format("at least {}", range.min));
  if (std::isfinite(range.above)) bounds.push_back(fmt::format("above {}", range.above));
  if (std::isfinite(range.max)) bounds.push_back(fmt::format("at most {}", range.max));
  if (std::isfinite(range.below)) bounds.push_back(fmt::format("below {}", range.below));
  return bounds.empty() ? what : fmt::format("{}, {}", what, fmt::join(bounds, " and "));
}

// Nodes made by Cadre from an override have no mark; those of a file have one.
std::string location(const std::string& source, const YAML::Mark& mark) {
  return mark.is_null() ? "command line" : fmt::format("{}:{}", source, mark.line + 1);
}

}  // namespace

Section::Section(YAML::Node node, std::string source, std::string path)
    : node_(std::move(node)),
      source_(std::move(source)),
      path_(std::move(path)),
      keys_(std::make_shared<Keys>()) {
  if (node_.IsDefined() && node_.IsSequence()) {
    fail(ExitCode::kUsage, "{}: {}: found {}, expected a map of keys", location(source_, node_.Mark()), path_,
         show(node_));
  }
}

// The value under `key`, undefined when missing; a lone scalar stands for {name: scalar}.
YAML::Node Section::peek(const std::string& key) const {
  if (node_.IsDefined() && node_.IsMap()) {
    const YAML::Node& map = node_;  // operator[] of a non-const node would insert
    return map[key];
  }
  if (node_.IsDefined() && node_.IsScalar() && key == "name") return node_;
  return YAML::Node(YAML::NodeType::Undefined);
}

bool Section::has(const std::string& key) const {
  keys_->asked.insert(key);
  return peek(key).IsDefined();
}

YAML::Node Section::find(const std::string& key, const char* expected) {
  keys_->known.insert(key);
  YAML::Node value = peek(key);
  if (!value.IsDefined() && expected != nullptr) {
    reject(key, fmt::format("is missing, expected {}", expected));
  }
  return value;
}

std::string Section::where(const std::string& key) const {
  if (!node_.IsDefined())
    return fmt::format("{}: {}", source_, child_path(path_, key));  // the section is missing too
  YAML::Mark mark = node_.Mark();
  if (node_.IsMap()) {
    for (const auto& entry : node_) {
      if (entry.first.Scalar() != key) continue;
      // The key's line; but an override of a key of the file keeps the key and replaces the value.
      mark = entry.second.Mark().is_null() ? entry.second.Mark() : entry.first.Mark();
    }
  }
  return fmt::format("{}: {}", location(source_, mark), child_path(path_, key));
}

void Section::reject(const std::string& key, const std::string& message) const {
  throw Error(ExitCode::kUsage, fmt::format("{}: {}", where(key), message));
}

void Section::mismatch(const std::string& key, const YAML::Node& found, const std::string& expected) const {
  reject(key, fmt::format("found {}, expected {}", show(found), expected));
}

int64_t Section::integer(const std::string& key, int64_t fallback, IntRange range) {
  return find(key, nullptr).IsDefined() ? integer(key, range) : fallback;
}

int64_t Section::integer(const std::string& key, IntRange range) {
  const std::string expected = describe("an integer", range);
  const YAML::Node node = find(key, expected.c_str());
  int64_t value = 0;
  if (!parse_integer(node, range, value)) mismatch(key, node, expected);
  return value;
}

double Section::number(const std::string& key, double fallback, NumberRange range) {
  const YAML::Node node = find(key, nullptr);
  if (!node.IsDefined()) return fallback;
  double value = 0;
  if (!parse_number(node, range, value)) mismatch(key, node, describe("a number", range));
  return value;
}

bool Section::boolean(const std::string& key, bool fallback) {
  const YAML::Node node = find(key, nullptr);
  if (!node.IsDefined()) return fallback;
  if (is_plain(node)) {
    const std::string& word = node.Scalar();
    if (word == "true" || word == "yes" || word == "on") return true;
    if (word == "false" || word == "no" || word == "off") return false;
  }
  mismatch(key, node, "true or false");
}

std::string Section::text(const std::string& key, const std::string& fallback) {
  return find(key, nullptr).IsDefined() ? text(key) : fallback;
}

std::string Section::text(const std::string& key) {
  const YAML::Node node = find(key, "text");
  if (!node.IsScalar()) mismatch(key, node, "text");
  return node.Scalar();
}

std::string Section::choice(const std::string& key, const std::string& fallback,
                            const std::vector<std::string>& words) {
  const YAML::Node node = find(key, nullptr);
  if (!node.IsDefined()) return fallback;
  if (node.IsScalar() && std::find(words.begin(), words.end(), node.Scalar()) != words.end()) {
    return node.Scalar();
  }
  const std::string near = node.IsScalar() ? nearest(node.Scalar(), words) : "";
  mismatch(key, node, "one of " + join(words) + (near.empty() ? "" : ", did you mean '" + near + "'?"));
}

std::vector<double> Section::numbers(const std::string& key, const std::vector<double>& fallback,
                                     NumberRange range) {
  const YAML::Node node = find(key, nullptr);
  if (!node.IsDefined()) return fallback;
  const std::string expected = "a list of " + describe("numbers", range);
  if (!node.IsSequence()) mismatch(key, node, expected);
  std::vector<double> values(node.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!parse_number(node[i], range, values[i])) mismatch(key, node[i], expected);
  }
  return values;
}

std::vector<int64_t> Section::integers(const std::string& key, const std::vector<int64_t>& fallback,
                                       IntRange range) {
  const YAML::Node node = find(key, nullptr);
  if (!node.IsDefined()) return fallback;
  const std::string expected = "a list of " + describe("integers", range);
  if (!node.IsSequence()) mismatch(key, node, expected);
  std::vector<int64_t> values(node.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!parse_integer(node[i], range, values[i])) mismatch(key, node[i], expected);
  }
  return values;
}

std::vector<std::string> Section::texts(const std::string& key, const std::vector<std::string>& fallback) {
  const YAML::Node node = find(key, nullptr);
  if (!node.IsDefined()) return fallback;
  if (!node.IsSequence()) mismatch(key, node, "a list of words");
  std::vector<std::string> values;
  for (const auto& item : node) {
    if (!item.IsScalar()) mismatch(key, item, "a list of words");
    values.push_back(item.Scalar());
  }
  return values;
}

Section Section::section(const std::string& key) {
  const YAML::Node node = find(key, nullptr);
  if (node.IsDefined() && node.IsSequence()) mismatch(key, node, "a map of keys");
  return Section(node, source_, child_path(path_, key));
}

void Section::finish() const {
  if (!node_.IsDefined() || node_.IsNull()) return;
  if (node_.IsScalar()) {
    if (keys_->known.contains("name")) return;
    fail(ExitCode::kUsage, "{}: {}: found {}, expected a map of keys", location(source_, node_.Mark()), path_,
         show(node_));
  }
  for (const auto& entry : node_) {
    const std::string key = entry.first.Scalar();
    if (keys_->known.contains(key)) continue;
    std::set<std::string> all = keys_->known;
    all.insert(keys_->asked.begin(), keys_->asked.end());
    all.erase(key);
    const std::vector<std::string> words(all.begin(), all.end());
    const std::string near = nearest(key, words);
    reject(key, near.empty() ? fmt::format("unknown key; known here: {}", join(words))
                             : fmt::format("unknown key, did you mean '{}'?", near));
  }
}

}  // namespace cadre::base
