#include "data/scores.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "data/hdf5_image.h"
#include "data/hdf5_read.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

constexpr int kScoreVersion = 1;
constexpr const char* kOrigin[] = {"shard_sha256", "tokenizer_sha256", "model", "settings"};

std::string column_name(size_t c) {
  return fmt::format("score_{}", c);
}

std::vector<std::byte> build(const ScoreHeader& header, const std::vector<std::vector<double>>& values,
                             const std::string& what) {
  const Hdf5Lock lock;
  const size_t documents = values.front().size();
  const Hdf5Handle file = make_file_in_memory(values.size() * (documents * 8 + 1024), what);
  write_int_attribute(file, "format_version", kScoreVersion, what);
  const std::string* origin[] = {&header.shard_sha256, &header.tokenizer_sha256, &header.model,
                                 &header.settings};
  for (size_t i = 0; i < 4; ++i) write_text_attribute(file, kOrigin[i], {*origin[i]}, true, what);
  write_text_attribute(file, "columns", header.columns, false, what);
  for (size_t c = 0; c < values.size(); ++c) {
    write_dataset(file, column_name(c).c_str(), {documents}, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE,
                  values[c].data(), what);
  }
  return image_of(file, what);
}

ScoreHeader read_header(hid_t file, const std::string& name) {
  const int version = read_int_attribute(file, "format_version", name);
  require(version == kScoreVersion, ExitCode::kData, "{}: format version {} of scores, expected {}", name,
          version, kScoreVersion);
  ScoreHeader header;
  std::string* origin[] = {&header.shard_sha256, &header.tokenizer_sha256, &header.model, &header.settings};
  for (size_t i = 0; i < 4; ++i) {
    const std::vector<std::string> texts = read_text_attribute(file, kOrigin[i], name);
    require(texts.size() == 1, ExitCode::kData, "{}: attribute {} has {} values, expected 1", name,
            kOrigin[i], texts.size());
    *origin[i] = texts[0];
  }
  header.columns = read_text_attribute(file, "columns", name);
  require(!header.columns.empty(), ExitCode::kData, "{}: scores without columns", name);
  return header;
}

void check_origin(const ScoreHeader& header, const ScoreHeader& first, const Manifest& manifest,
                  const ShardInfo& shard, const std::string& file) {
  const auto same = [&](const char* what, const std::string& found, const std::string& expected) {
    require(found == expected, ExitCode::kData,
            "{}: these scores belong to {} {}, expected {}. Score the data again (`cadre score`)", file, what,
            found, expected);
  };
  same("shard", header.shard_sha256, shard.sha256);
  same("tokenizer", header.tokenizer_sha256, manifest.tokenizer_sha256);
  same("model", header.model, first.model);
  same("settings", header.settings, first.settings);
  require(header.columns == first.columns, ExitCode::kData,
          "{}: columns {}, the first shard has {}. Score the data again", file,
          fmt::join(header.columns, ", "), fmt::join(first.columns, ", "));
}

// Without throwing: a name from a manifest may be longer than the system takes.
bool is_there(const std::filesystem::path& file) {
  std::error_code code;
  return std::filesystem::exists(file, code);
}

}  // namespace

const std::vector<double>& Scores::column(const std::string& name) const {
  const auto found = std::find(columns.begin(), columns.end(), name);
  require(found != columns.end(), ExitCode::kUsage, "no scores called '{}'; there are {}", name,
          fmt::join(columns, ", "));
  return values[size_t(found - columns.begin())];
}

std::filesystem::path score_file(const Manifest& manifest, const std::string& name,
                                 const std::string& shard) {
  const bool plain = !name.empty() && name[0] != '.' && name.find('/') == std::string::npos;
  require(plain, ExitCode::kUsage, "scores are called '{}', expected a plain name such as loss-125m", name);
  return manifest.folder / "scores" / name / shard;
}

void write_scores(const std::filesystem::path& file, const ScoreHeader& header,
                  const std::vector<std::vector<double>>& values) {
  for (size_t c = 0; c < values.size(); ++c) {
    for (size_t d = 0; d < values[c].size(); ++d) {
      require(std::isfinite(values[c][d]), ExitCode::kNumeric,
              "{}: document {} has the score {} in column '{}'; nothing was written", file.string(), d,
              values[c][d], header.columns[c]);
    }
  }
  const std::vector<std::byte> image = build(header, values, "cannot build " + file.string());
  std::error_code code;
  std::filesystem::create_directories(file.parent_path(), code);
  require(!code, ExitCode::kData, "{}: cannot create the folder: {}", file.parent_path().string(),
          code.message());
  base::write_file_atomic(file, {reinterpret_cast<const char*>(image.data()), image.size()}, ExitCode::kData);
}

std::optional<ScoreHeader> read_score_header(const std::filesystem::path& file) {
  if (!is_there(file)) return std::nullopt;
  const Hdf5Lock lock;
  return read_header(open_hdf5(file.string(), "the scores"), file.string());
}

Scores load_scores(const Manifest& manifest, const Split& split, const std::string& name) {
  Scores all;
  std::optional<ScoreHeader> first;
  for (const ShardInfo& shard : split.shards) {
    const std::string path = score_file(manifest, name, shard.file).string();
    require(is_there(path), ExitCode::kData,
            "{}: no such file. Make the scores of split '{}' with `cadre score --name {}`", path, split.name,
            name);
    const Hdf5Lock lock;
    const Hdf5Handle file = open_hdf5(path, "the scores");
    const ScoreHeader header = read_header(file, path);
    if (!first) {
      first = header;
      all.columns = header.columns;
      all.values.resize(header.columns.size());
    }
    check_origin(header, *first, manifest, shard, path);
    for (size_t c = 0; c < all.values.size(); ++c) {
      const Hdf5Handle set =
          open_dataset(file, column_name(c).c_str(), uint64_t(shard.documents), 8, path, true);
      std::vector<double> part(size_t(shard.documents), 0.0);
      hdf5_check(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, part.data()), path);
      for (const double x : part)
        require(std::isfinite(x), ExitCode::kData, "{}: column '{}' holds {}, expected finite numbers", path,
                header.columns[c], x);
      all.values[c].insert(all.values[c].end(), part.begin(), part.end());
    }
  }
  return all;
}

}  // namespace cadre::data
