// Strict YAML sections. A Section is a map in a run file; every key must be read by somebody, so that a typo
// cannot pass: finish() names the line of the first unknown key and the nearest known one. Wrong types and
// impossible values throw Error(kUsage) naming file, line, key path, what was found and what was expected.
//
//   Section root = parse_run_file(path, overrides);
//   OptimConfig read_optim(Section s) {
//     OptimConfig c;
//     c.lr = s.number("lr", c.lr, {.above = 0});
//     s.finish();
//     return c;
//   }
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace cadre::base {

struct IntRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};
struct NumberRange {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  double above = -std::numeric_limits<double>::infinity();  // exclusive
  double below = std::numeric_limits<double>::infinity();   // exclusive
};

class Section {
 public:
  Section(YAML::Node node, std::string source, std::string path);

  bool has(const std::string& key) const;  // asking does not count as reading
  // Each getter marks the key as known. A missing key gives the default; one without default throws.
  int64_t integer(const std::string& key, int64_t fallback, IntRange range = {});
  int64_t integer(const std::string& key, IntRange range = {});
  double number(const std::string& key, double fallback, NumberRange range = {});
  bool boolean(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback);
  std::string text(const std::string& key);
  // One of a fixed set of words; the error lists them.
  std::string choice(const std::string& key, const std::string& fallback,
                     const std::vector<std::string>& words);
  std::vector<double> numbers(const std::string& key, const std::vector<double>& fallback,
                              NumberRange range = {});
  std::vector<int64_t> integers(const std::string& key, const std::vector<int64_t>& fallback,
                                IntRange range = {});
  std::vector<std::string> texts(const std::string& key, const std::vector<std::string>& fallback);
  // A sub-map; empty when the key is missing. `name` alone (mixer: unimax) is read as {name: unimax}.
  Section section(const std::string& key);

  void finish() const;  // every key of the map must have been asked for
  // Throws Error(kUsage) for `key`, with its file, line and path in front.
  [[noreturn]] void reject(const std::string& key, const std::string& message) const;
  const std::string& path() const { return path_; }      // "moe.router"; empty for the root
  const std::string& source() const { return source_; }  // the file's name
  const YAML::Node& node() const { return node_; }

 private:
  struct Keys {
    std::set<std::string> known;  // read by a getter
    std::set<std::string>
        asked;  // seen by has() only: a suggestion, but no excuse for a key that nobody reads
  };
  YAML::Node peek(const std::string& key) const;
  YAML::Node find(const std::string& key,
                  const char* expected);  // expected: what a missing key should be, or null
  std::string where(const std::string& key) const;
  [[noreturn]] void mismatch(const std::string& key, const YAML::Node& found,
                             const std::string& expected) const;

  YAML::Node node_;
  std::string source_;  // file name for messages
  std::string path_;
  std::shared_ptr<Keys> keys_;  // shared by copies, so that passing by value keeps the record
};

// Reads a file and applies key.sub=value overrides in order; an override may add a key that the file lacks.
Section parse_run_file(const std::filesystem::path& path, const std::vector<std::string>& overrides);
Section parse_run_text(const std::string& text, const std::string& source,
                       const std::vector<std::string>& overrides);

// The candidate with the smallest edit distance, or empty when none is near enough to suggest.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace cadre::base
