#include "data/prepare/inputs.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

// Text is about this many times larger than its compressed form; only for sizing units.
constexpr uint64_t kCompressionRatio = 4;

// Fills in format, compression and stem; false for another ending.
bool classify(const fs::path& path, InputFile& file, std::string& stem) {
  fs::path name = path.filename();
  file.path = path;
  if (name.extension() == ".gz" || name.extension() == ".zst") {
    file.compression = name.extension() == ".gz" ? Compression::kGzip : Compression::kZstd;
    name = name.stem();
  }
  stem = name.stem().string();
  if (name.extension() == ".jsonl") {
    file.format = Format::kJsonl;
  } else if (name.extension() == ".txt") {
    file.format = Format::kText;
  } else {
    return false;
  }
  return true;
}

void read_size(InputFile& file) {
  struct stat info {};
  if (::stat(file.path.c_str(), &info) != 0) return;
  file.size = static_cast<uint64_t>(info.st_size);
  file.mtime_ns = int64_t(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

class Finder {
 public:
  Inputs inputs;

  void add(const fs::path& name) {
    std::error_code error;
    const fs::file_status status = fs::status(name, error);
    require(fs::exists(status), ExitCode::kData, "no such file or folder: {}", name.string());
    if (fs::is_directory(status)) {
      add_folder(name);
      return;
    }
    InputFile file;
    std::string stem;
    require(classify(name, file, stem), ExitCode::kUsage,
            "{}: unknown ending; expected .txt or .jsonl, alone or followed by .gz or .zst", name.string());
    file.domain = stem;
    take(std::move(file));
  }

 private:
  void add_folder(const fs::path& folder) {
    std::vector<fs::path> paths;
    std::error_code error;
    const auto options = fs::directory_options::skip_permission_denied;
    for (fs::recursive_directory_iterator it(folder, options, error), end; it != end; it.increment(error)) {
      if (error) break;
      if (!it->is_directory(error)) paths.push_back(it->path());
    }
    require(!error, ExitCode::kData, "cannot list {}: {}", folder.string(), error.message());
    std::ranges::sort(paths);
    const fs::path own = fs::absolute(folder).lexically_normal();
    const std::string own_name = (own.has_filename() ? own : own.parent_path()).filename().string();
    for (const fs::path& path : paths) {
      InputFile file;
      std::string stem;
      if (!classify(path, file, stem)) {
        ++inputs.ignored;
        continue;
      }
      const fs::path below = path.lexically_relative(folder);
      const bool direct = std::distance(below.begin(), below.end()) == 1;
      file.domain = file.format == Format::kJsonl ? stem : direct ? own_name : below.begin()->string();
      take(std::move(file));
    }
  }

  // A file that was given twice, as itself and by its folder, counts once.
  void take(InputFile file) {
    std::error_code error;
    const fs::path canonical = fs::weakly_canonical(file.path, error);
    if (!seen_.insert(error ? file.path : canonical).second) return;
    read_size(file);
    inputs.bytes += file.size;
    inputs.files.push_back(std::move(file));
  }
  std::set<fs::path> seen_;
};

// Small enough that two threads end at about the same time, large enough that a terabyte makes some thousand
// files.
uint64_t default_unit_bytes(uint64_t total) {
  return std::clamp<uint64_t>(total / 4096, uint64_t(1) << 20, uint64_t(64) << 20);
}

void divide(Inputs& inputs, uint64_t unit_bytes) {
  Unit unit;
  uint64_t weight = 0;
  const auto close = [&] {
    if (!unit.slices.empty()) inputs.units.push_back(std::move(unit));
    unit = Unit();
    weight = 0;
  };
  for (size_t index = 0; index < inputs.files.size(); ++index) {
    const InputFile& file = inputs.files[index];
    const bool can_split = file.format == Format::kJsonl && file.compression == Compression::kNone;
    const uint64_t ratio = file.compression == Compression::kNone ? 1 : kCompressionRatio;
    uint64_t begin = 0;
    do {
      const uint64_t room = unit_bytes - weight;
      const uint64_t size = can_split ? std::min(room, file.size - begin) : file.size;
      unit.slices.push_back({static_cast<int>(index), begin, begin + size});
      unit.bytes += size;
      weight += size * ratio;
      begin += size;
      if (weight >= unit_bytes) close();
    } while (begin < file.size);
  }
  close();
}

}  // namespace

Inputs find_inputs(const std::vector<fs::path>& names, uint64_t unit_bytes) {
  Finder finder;
  for (const fs::path& name : names) finder.add(name);
  Inputs inputs = std::move(finder.inputs);
  require(!inputs.files.empty(), ExitCode::kData,
          "no .txt or .jsonl file (plain, .gz or .zst) among the inputs; {} files have other endings",
          inputs.ignored);
  divide(inputs, unit_bytes > 0 ? unit_bytes : default_unit_bytes(inputs.bytes));
  return inputs;
}

}  // namespace cadre::data
