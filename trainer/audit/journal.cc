#include "trainer/audit/journal.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "parallel/base/file_lock.h"
#include "parallel/base/files.h"

namespace cadre::audit {

namespace fs = std::filesystem;
using nlohmann::json;

Journal::Journal(fs::path file, const std::string& settings)
    : file_(std::move(file)), settings_(base::sha256_text(settings)) {
  fs::create_directories(file_.parent_path());
  const base::FileLock alone = base::FileLock::wait_for(file_);  // makes it
  read_on();
  if (read_ == 0 && !cut_short_) append("settings", settings_);
  const json* saved = find("settings");
  require(saved != nullptr && *saved == settings_, ExitCode::kUsage,
          "{} was begun with other settings; remove it, or give another `out`", file_.string());
}

const json* Journal::find(const std::string& key) const {
  const auto at = entries_.find(key);
  return at == entries_.end() ? nullptr : &at->second;
}

// What was added since, by this process or others.
void Journal::read_on() {
  const std::string text = base::read_file(file_, ExitCode::kData);
  size_t at = read_;
  for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const json line = json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false);
    if (line.is_array() && line.size() == 2 && line[0].is_string())
      entries_.emplace(line[0].get<std::string>(), line[1]);
  }
  read_ = at;
  cut_short_ = at < text.size();
}

// With the file locked, so that what is cut short was left by a crash: its line is ended.
void Journal::append(const std::string& key, const json& value) {
  entries_[key] = value;
  std::ofstream out(file_, std::ios::app);
  if (cut_short_) out << '\n';
  out << json::array({key, value}).dump() << '\n';
  out.flush();
  require(bool(out), ExitCode::kData, "cannot write {}: is the disk full?", file_.string());
}

void Journal::add(const std::string& key, const json& value) {
  const base::FileLock alone = base::FileLock::wait_for(file_);
  read_on();
  append(key, value);
}

fs::path Journal::claim_of(const std::string& key) const {
  std::string name = file_.stem().string() + "-" + key;
  std::replace(name.begin(), name.end(), ' ', '-');
  return file_.parent_path() / "claims" / name;
}

bool Journal::make_all(const std::vector<std::string>& keys,
                       const std::function<std::optional<json>(size_t)>& make,
                       const std::function<bool()>& keep_going) {
  constexpr auto kMoment = std::chrono::milliseconds(250);
  std::error_code ignored;
  fs::create_directories(file_.parent_path() / "claims", ignored);
  while (true) {
    bool whole = true, made = false;
    read_on();
    for (size_t i = 0; i < keys.size(); ++i) {
      if (find(keys[i]) != nullptr) continue;
      if (!keep_going()) return false;
      const fs::path claim = claim_of(keys[i]);
      const auto held = base::FileLock::take(claim);
      whole = whole && held.has_value();
      if (!held) continue;
      read_on();  // who held it before may have made the entry since it was looked for
      if (find(keys[i]) == nullptr) {
        const auto value = make(i);
        if (!value) return false;
        add(keys[i], *value);
        made = true;
      }
      fs::remove(claim, ignored);
    }
    if (whole) return true;
    if (!made) std::this_thread::sleep_for(kMoment);
  }
}

}  // namespace cadre::audit
