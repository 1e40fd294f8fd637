// Reading a run file into a checked YAML tree, and the command line's overrides.
#include "parallel/base/run_file.h"

#include <yaml-cpp/eventhandler.h>

#include <sstream>

#include "parallel/base/errors.h"
#include "parallel/base/files.h"

namespace cadre::base {
namespace {

constexpr uint64_t kMaxRunFileBytes = 4 << 20;
constexpr int kMaxDepth = 32;

// A first pass over the events refuses what would make walking the tree dangerous: an alias can make a small
// file stand for an exponentially large tree, or for a cycle, and no run file needs one.
class Guard : public YAML::EventHandler {
 public:
  explicit Guard(const std::string& source) : source_(source) {}
  int documents() const { return documents_; }

  void OnDocumentStart(const YAML::Mark&) override { ++documents_; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(ExitCode::kUsage, "{}:{}: found an alias (*name); write the value out instead", source_,
         mark.line + 1);
  }
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    enter(mark);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    enter(mark);
  }
  void OnMapEnd() override { --depth_; }

 private:
  void enter(const YAML::Mark& mark) {
    require(++depth_ <= kMaxDepth, ExitCode::kUsage, "{}:{}: nested deeper than {} levels", source_,
            mark.line + 1, kMaxDepth);
  }
  const std::string& source_;
  int depth_ = 0, documents_ = 0;
};

void check_keys(const YAML::Node& node, const std::string& source, const std::string& path) {
  if (node.IsSequence()) {
    for (const auto& item : node) check_keys(item, source, path);
  }
  if (!node.IsMap()) return;
  std::set<std::string> seen;
  for (const auto& entry : node) {
    const int line = entry.first.Mark().line + 1;
    require(entry.first.IsScalar(), ExitCode::kUsage, "{}:{}: found a key that is not a word", source, line);
    const std::string key = path.empty() ? entry.first.Scalar() : path + "." + entry.first.Scalar();
    require(seen.insert(entry.first.Scalar()).second, ExitCode::kUsage,
            "{}:{}: {}: found the key twice; keep one of them", source, line, key);
    check_keys(entry.second, source, key);
  }
}

YAML::Node parse(const std::string& text, const std::string& source) {
  try {
    Guard guard(source);
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    // yaml-cpp 0.7 does not get past a stray comma at the top level: it finds one empty document after another, for ever.
    while (guard.documents() <= 1 && parser.HandleNextDocument(guard)) {
    }
    require(guard.documents() <= 1, ExitCode::kUsage, "{}: found {} YAML documents, expected one", source,
            guard.documents());
    YAML::Node node = YAML::Load(text);
    check_keys(node, source, "");
    return node;
  } catch (const YAML::Exception& error) {
    fail(ExitCode::kUsage, "{}:{}: not valid YAML: {}", source, error.mark.line + 1, error.msg);
  }
}

// A copy whose nodes have no mark: that is how messages know that a value came from the command line.
YAML::Node unmarked(const YAML::Node& node) {
  YAML::Node copy(node.Type());
  if (node.IsScalar()) copy = node.Scalar();
  for (const auto& item : node) {
    if (node.IsSequence()) {
      copy.push_back(unmarked(item));
    } else {
      copy[item.first.Scalar()] = unmarked(item.second);
    }
  }
  copy.SetTag(node.Tag());  // tells quoted from plain scalars
  return copy;
}

// In a map of paths, the words from `at` on become one: the longest key that is there already and begins as they do, or
// all of them.
void join_words(const YAML::Node& map, std::vector<std::string>& words, size_t at) {
  const auto joined = [&](size_t end) {
    return fmt::format("{}", fmt::join(words.begin() + long(at), words.begin() + long(end), "."));
  };
  size_t end = words.size();
  while (end > at && !map[joined(end)].IsDefined()) --end;
  if (end == at) end = words.size();
  words[at] = joined(end);
  words.erase(words.begin() + long(at) + 1, words.begin() + long(end));
}

void apply_override(YAML::Node root, const std::string& text, HoldsPaths holds_paths) {
  const size_t equals = text.find('=');
  require(equals != std::string::npos && equals > 0 && equals + 1 < text.size(), ExitCode::kUsage,
          "command line: found '{}', expected key.sub=value", text);
  const std::string path = text.substr(0, equals);
  std::vector<std::string> keys;
  std::istringstream stream(path + ".");
  for (std::string key; std::getline(stream, key, '.');) {
    require(!key.empty(), ExitCode::kUsage,
            "command line: found an empty key in '{}', expected key.sub=value", path);
    keys.push_back(key);
  }
  YAML::Node value;
  try {
    value = unmarked(parse(text.substr(equals + 1), "command line"));
  } catch (const Error& error) {
    fail(ExitCode::kUsage, "command line: {}: the value is not valid YAML: {}", path, error.what());
  }

  YAML::Node map = root;
  for (size_t i = 0; i + 1 < keys.size(); ++i) {
    if (holds_paths != nullptr && holds_paths(std::span(keys).first(i))) {
      join_words(map, keys, i);
      if (i + 1 == keys.size()) break;
    }
    YAML::Node next = map[keys[i]];
    if (next.IsDefined() && next.IsScalar()) {  // mixer: unimax
      YAML::Node longhand(YAML::NodeType::Map);
      longhand["name"] = YAML::Node(next);
      map[keys[i]] = longhand;
      next.reset(longhand);
    } else if (!next.IsDefined() || next.IsNull()) {
      YAML::Node empty(YAML::NodeType::Map);
      map[keys[i]] = empty;
      next.reset(empty);
    }
    require(next.IsMap(), ExitCode::kUsage, "command line: {}: '{}' is a list, not a map of keys", path,
            keys[i]);
    map.reset(next);
  }
  map[keys.back()] = value;
}

}  // namespace

Section parse_run_text(const std::string& text, const std::string& source,
                       const std::vector<std::string>& overrides, HoldsPaths holds_paths) {
  YAML::Node root = parse(text, source);
  require(root.IsMap(), ExitCode::kUsage, "{}:1: found {}, expected a map of keys at the top", source,
          root.IsNull()       ? "nothing"
          : root.IsSequence() ? "a list"
                              : "a lone value");
  try {
    for (const std::string& override_text : overrides) apply_override(root, override_text, holds_paths);
  } catch (const YAML::Exception& error) {
    fail(ExitCode::kUsage, "command line: cannot apply an override: {}", error.what());
  }
  return Section(root, source, "");
}

Section parse_run_file(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                       HoldsPaths holds_paths) {
  return parse_run_text(read_file(path, ExitCode::kUsage, kMaxRunFileBytes), path.string(), overrides,
                        holds_paths);
}

Section parse_run_text(const std::string& text, const std::string& source,
                       const std::vector<std::string>& overrides) {
  return parse_run_text(text, source, overrides, nullptr);
}

Section parse_run_file(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return parse_run_file(path, overrides, nullptr);
}

}  // namespace cadre::base
