// What an audit has measured so far, one JSON line for each measurement, so that one that was stopped goes on where
// it was.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace cadre::audit {

class Journal {
 public:
  // Reads the file when it is there; a last line that was cut short is dropped. Throws Error(kUsage) when it was
  // begun with other settings, Error(kData) when it cannot be written.
  Journal(std::filesystem::path file, const std::string& settings);
  const nlohmann::json* find(const std::string& key) const;
  void add(const std::string& key, const nlohmann::json& value);  // on the disk when it returns

 private:
  std::filesystem::path file_;
  std::string settings_;
  std::map<std::string, nlohmann::json> entries_;
};

}  // namespace cadre::audit
