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
  const auto steps = nlohmann::json::parse(lists.front()).get<std::vector<uint64_t>>();
  std::string newest_problem;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const fs::path path = folder / checkpoint_name(*step);
    const auto problems = data.gather_texts(check(path, data.rank(), data.size()), "check a checkpoint");
    const auto bad = std::find_if(problems.begin(), problems.end(), [](const auto& p) { return !p.empty(); });
    if (bad == problems.end()) return path;
    if (data.rank() == 0) spdlog::warn("checkpoint {} is damaged and passed over: {}", path.string(), *bad);
    if (newest_problem.empty()) newest_problem = *bad;
  }
  if (steps.empty()) return std::nullopt;
  none_left(folder, steps.size(), newest_problem);
}

fs::path find_checkpoint(const fs::path& path) {
  if (fs::exists(path / kIndexFile)) {
    const std::string problem = check(path, 0, 1);
    require(problem.empty(), ExitCode::kCheckpoint, "{}", problem);
    return path;
  }
  const fs::path folder = fs::exists(path / "checkpoints") ? path / "checkpoints" : path;
  const std::vector<uint64_t> steps = list_checkpoints(folder);
  require(!steps.empty(), ExitCode::kCheckpoint,
          "{}: no checkpoint there; give a run folder or a checkpoint (a folder with {})", path.string(),
          kIndexFile);
  std::string newest_problem;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const fs::path candidate = folder / checkpoint_name(*step);
    const std::string problem = check(candidate, 0, 1);
    if (problem.empty()) return candidate;
    spdlog::warn("checkpoint {} is damaged and passed over: {}", candidate.string(), problem);
    if (newest_problem.empty()) newest_problem = problem;
  }
  none_left(folder, steps.size(), newest_problem);
}

fs::path find_checkpoint(const fs::path& path, comm::Communicator& ranks) {
  std::string found, error;
  if (ranks.rank() == 0) {
    try {
      found = find_checkpoint(path).string();
    } catch (const Error& e) {
      error = e.what();
    }
  }
  ranks.agree(error, ExitCode::kCheckpoint, "find a checkpoint");
  return ranks.gather_texts(found, "find a checkpoint").front();
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
