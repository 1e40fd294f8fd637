#include "trainer/run/checkpoint_folder.h"

#include <algorithm>
#include <charconv>

#include "parallel/base/files.h"
#include "parallel/base/log.h"
#include "trainer/run/checkpoint_index.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kPrefix = "step-";

// What a path leads to: a checkpoint, or the steps of those in a folder.
struct Found {
  fs::path folder;
  std::vector<uint64_t> steps;
  bool itself = false;  // `folder` is the checkpoint
  size_t size() const { return itself ? 1 : steps.size(); }
  fs::path newest(size_t i) const {
    return itself ? folder : folder / checkpoint_name(steps[steps.size() - 1 - i]);
  }
};

Found look(const fs::path& path) {
  if (fs::exists(path / kIndexFile)) return {path, {}, true};
  Found found{fs::exists(path / "checkpoints") ? path / "checkpoints" : path, {}};
  found.steps = list_checkpoints(found.folder);
  require(!found.steps.empty(), ExitCode::kCheckpoint,
          "{}: no checkpoint there; give a run folder or a checkpoint (a folder with {})", path.string(),
          kIndexFile);
  return found;
}

// What is wrong with the index, or nothing.
std::string check_index(const fs::path& checkpoint) {
  try {
    read_index(checkpoint);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

// What is wrong with this rank's share of the files, or nothing.
std::string check(const fs::path& checkpoint, int first, int stride) {
  try {
    return check_files(read_index(checkpoint), checkpoint, first, stride);
  } catch (const Error& error) {
    return error.what();
  }
}

[[noreturn]] void none_left(const fs::path& folder, size_t found, const std::string& newest_problem) {
  fail(ExitCode::kCheckpoint,
       "{}: {} checkpoint{} found, none is whole (newest: {}). Restore one, or remove the folder to start "
       "over",
       folder.string(), found, found == 1 ? "" : "s", newest_problem);
}

// The newest with which `problem` finds nothing wrong; nothing when there is none at all.
template <class Problem>
std::optional<fs::path> newest_whole(const Found& found, bool tells, const Problem& problem) {
  std::string newest_problem;
  for (size_t i = 0; i < found.size(); ++i) {
    const fs::path path = found.newest(i);
    const std::string wrong = problem(path);
    if (wrong.empty()) return path;
    require(!found.itself, ExitCode::kCheckpoint, "{}", wrong);
    if (tells) spdlog::warn("checkpoint {} is damaged and passed over: {}", path.string(), wrong);
    if (newest_problem.empty()) newest_problem = wrong;
  }
  if (found.size() == 0) return std::nullopt;
  none_left(found.folder, found.size(), newest_problem);
}

// The ranks share the work.
std::optional<fs::path> newest_whole(const Found& found, comm::Communicator& ranks) {
  return newest_whole(found, ranks.rank() == 0, [&](const fs::path& path) {
    const auto problems = ranks.gather_texts(check(path, ranks.rank(), ranks.size()), "check a checkpoint");
    const auto bad = std::find_if(problems.begin(), problems.end(), [](const auto& p) { return !p.empty(); });
    return bad == problems.end() ? "" : *bad;
  });
}

}  // namespace

std::string checkpoint_name(uint64_t step) {
  return fmt::format("{}{:08}", kPrefix, step);
}

std::vector<uint64_t> list_checkpoints(const fs::path& folder) {
  std::vector<uint64_t> steps;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    uint64_t step = 0;
    if (!name.starts_with(kPrefix)) continue;
    const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    if (error == std::errc() && end == name.data() + name.size()) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<fs::path> newest_checkpoint(const fs::path& folder, comm::Communicator& data) {
  // Rank 0's list counts, so that a slow shared file system cannot make ranks disagree.
  nlohmann::json own = nlohmann::json::array();
  if (data.rank() == 0) own = list_checkpoints(folder);
  const auto lists = data.gather_texts(own.dump(), "list checkpoints");
  return newest_whole({folder, nlohmann::json::parse(lists.front()).get<std::vector<uint64_t>>()}, data);
}

fs::path find_checkpoint(const fs::path& path) {
  return *newest_whole(look(path), true, [](const fs::path& found) { return check(found, 0, 1); });
}

fs::path find_checkpoint(const fs::path& path, comm::Communicator& ranks) {
  // Rank 0 looks, as above.
  Found found;
  std::string error;
  if (ranks.rank() == 0) {
    try {
      found = look(path);
    } catch (const std::exception& e) {
      error = e.what();
    }
  }
  ranks.agree(error, ExitCode::kCheckpoint, "find a checkpoint");
  const nlohmann::json own = {{"steps", found.steps}, {"itself", found.itself}};
  const std::string folder = ranks.gather_texts(found.folder.string(), "find a checkpoint").front();
  const auto first = nlohmann::json::parse(ranks.gather_texts(own.dump(), "list checkpoints").front());
  return *newest_whole({folder, first["steps"].get<std::vector<uint64_t>>(), first["itself"].get<bool>()},
                       ranks);
}

fs::path find_index(const fs::path& path) {
  return *newest_whole(look(path), true, check_index);
}

void remove_temporaries(const fs::path& folder) {
  std::error_code code;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    if (entry.path().filename().string().starts_with(".tmp-")) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, code);
}

void remove_old_checkpoints(const fs::path& folder, int keep) {
  const std::vector<uint64_t> steps = list_checkpoints(folder);
  for (size_t i = 0; i + size_t(keep) < steps.size(); ++i) {
    std::error_code code;
    const fs::path path = folder / checkpoint_name(steps[i]);
    fs::remove_all(path, code);
    if (code) spdlog::warn("cannot remove the old checkpoint {}: {}", path.string(), code.message());
  }
}

}  // namespace cadre::trainer
