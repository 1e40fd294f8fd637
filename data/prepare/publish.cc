#include "data/prepare/publish.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <vector>

#include "parallel/base/files.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

// train-00000.h5 and the like: names that only prepare gives.
bool is_shard_name(const std::string& name) {
  if (!name.starts_with("train-") && !name.starts_with("valid-")) return false;
  if (!name.ends_with(".h5") || name.size() <= 9) return false;
  return std::all_of(name.begin() + 6, name.end() - 3, [](unsigned char c) { return std::isdigit(c) != 0; });
}

void remove_old(const fs::path& out, const std::set<std::string>& keep) {
  std::vector<fs::path> old;
  for (const char* name :
       {"manifest.json", "report.json", "tokenizer.model", "tokenizer.json", "tokenizer.bytes.json"}) {
    if (fs::exists(out / name)) old.push_back(out / name);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    if (is_shard_name(name) && !keep.contains(name)) old.push_back(entry.path());
  }
  // The manifest is first in the list: without it nothing reads the rest.
  for (const fs::path& path : old) {
    std::error_code error;
    fs::remove(path, error);
    require(!error, ExitCode::kData, "cannot remove {}: {}", path.string(), error.message());
  }
}

}  // namespace

void publish(const Work& work, const Tokenizer& tokenizer, const Report& report, const Manifest& manifest) {
  const fs::path& out = work.options.out;
  std::set<std::string> names;
  for (const Split& split : manifest.splits) {
    for (const ShardInfo& shard : split.shards) names.insert(shard.file);
  }
  remove_old(out, names);
  for (const std::string& name : names) {
    // Not in the work folder: a run that was killed right here has moved it already (assemble checked its
    // hash).
    if (fs::exists(work.shard_folder() / name)) {
      base::rename_durably(work.shard_folder() / name, out / name, ExitCode::kData);
    }
  }
  save_tokenizer(tokenizer, out);
  base::write_file_atomic(out / "report.json", report_json(report, manifest), ExitCode::kData);
  save_manifest(manifest, out / "manifest.json");
  std::error_code ignored;  // a left-over work folder does no harm; the next run with --force empties it
  fs::remove_all(work.folder, ignored);
}

}  // namespace cadre::data
