// What an audit has measured so far, one JSON line for each measurement, so that one that was stopped goes on where
// it was, and several processes can share the work.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace cadre::audit {

class Journal {
 public:
  // Reads the file when it is there; a last line that was cut short is dropped. Throws Error(kUsage) when it was
  // begun with other settings, Error(kData) when it cannot be written.
  Journal(std::filesystem::path file, const std::string& settings);
  const nlohmann::json* find(const std::string& key) const;
  void add(const std::string& key, const nlohmann::json& value);  // in the file when it returns

  // Returns true when there is an entry for each key. What is missing is measured by make(its number), under a lock that
  // other processes respect, or waited for when one of them is at it. False when `keep_going` says no or `make` gives
  // nothing, with the rest undone.
  bool make_all(const std::vector<std::string>& keys,
                const std::function<std::optional<nlohmann::json>(size_t)>& make,
                const std::function<bool()>& keep_going);

 private:
  void read_on();
  void append(const std::string& key, const nlohmann::json& value);
  std::filesystem::path claim_of(const std::string& key) const;

  std::filesystem::path file_;
  std::string settings_;
  std::map<std::string, nlohmann::json> entries_;
  size_t read_ = 0;         // bytes of the file, all whole lines
  bool cut_short_ = false;  // more bytes were there
};

}  // namespace cadre::audit
