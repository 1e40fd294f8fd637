#include "trainer/audit/journal.h"

#include <fstream>

#include "parallel/base/files.h"

namespace cadre::audit {

using nlohmann::json;

Journal::Journal(std::filesystem::path file, const std::string& settings)
    : file_(std::move(file)), settings_(base::sha256_text(settings)) {
  std::filesystem::create_directories(file_.parent_path());
  if (!std::filesystem::exists(file_)) {
    add("settings", settings_);
    return;
  }
  const std::string text = base::read_file(file_, ExitCode::kData);
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const json line = json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false);
    if (line.is_array() && line.size() == 2 && line[0].is_string())
      entries_[line[0].get<std::string>()] = line[1];
  }
  const json* saved = find("settings");
  require(saved != nullptr && *saved == settings_, ExitCode::kUsage,
          "{} was begun with other settings; remove it, or give another `out`", file_.string());
  // Ends what a crash may have left of a line.
  if (!text.empty() && text.back() != '\n') std::ofstream(file_, std::ios::app) << '\n';
}

const json* Journal::find(const std::string& key) const {
  const auto at = entries_.find(key);
  return at == entries_.end() ? nullptr : &at->second;
}

void Journal::add(const std::string& key, const json& value) {
  entries_[key] = value;
  std::ofstream out(file_, std::ios::app);
  out << json::array({key, value}).dump() << '\n';
  out.flush();
  require(bool(out), ExitCode::kData, "cannot write {}: is the disk full?", file_.string());
}

}  // namespace cadre::audit
