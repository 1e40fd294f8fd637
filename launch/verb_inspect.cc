// `cadre inspect`: what is in a shard, a manifest, a checkpoint or a run folder.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/shard.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "parallel/base/json_depth.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/checkpoint_index.h"

namespace cadre::launch {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

json domain_rows(const std::vector<data::DomainInfo>& domains) {
  json rows = json::array();
  for (const data::DomainInfo& d : domains) {
    rows.push_back({{"name", d.name}, {"documents", d.documents}, {"tokens", d.tokens}, {"bytes", d.bytes}});
  }
  return rows;
}

json inspect_manifest(const fs::path& file) {
  const data::Manifest m = data::load_manifest(file);
  json out = {{"kind", "manifest"},
              {"file", file.string()},
              {"tokenizer",
               {{"kind", m.tokenizer_kind},
                {"file", m.tokenizer_file},
                {"vocab", m.vocab_size},
                {"bos", m.bos},
                {"eos", m.eos}}},
              {"splits", json::object()}};
  for (const data::Split& split : m.splits) {
    json shards = json::array();
    for (const data::ShardInfo& s : split.shards) {
      shards.push_back(
          {{"file", s.file}, {"bytes", s.bytes}, {"documents", s.documents}, {"tokens", s.tokens}});
    }
    out["splits"][split.name] = {{"domains", domain_rows(split.domains)}, {"shards", shards}};
  }
  return out;
}

// A shard is only opened when its bytes match a list, so the manifest beside it is needed.
json inspect_shard(const fs::path& file) {
  const fs::path manifest_file = fs::absolute(file).parent_path() / "manifest.json";
  require(file.extension() == ".h5", ExitCode::kUsage,
          "{} is none of: shard (.h5), manifest.json or its folder, checkpoint, run folder", file.string());
  require(fs::exists(manifest_file), ExitCode::kData,
          "{}: a shard is read only beside the manifest.json that lists it, and {} is not there",
          file.string(), manifest_file.string());
  const data::Manifest manifest = data::load_manifest(manifest_file);
  for (const data::Split& split : manifest.splits) {
    for (const data::ShardInfo& info : split.shards) {
      if (fs::path(info.file).filename() != file.filename()) continue;
      const data::ShardReader shard(manifest, info, data::Verify::kAlways);
      std::vector<data::DomainInfo> domains;
      for (const std::string& name : shard.header().domains) domains.push_back({.name = name});
      for (int64_t d = 0; d < shard.documents(); ++d) {
        data::DomainInfo& domain = domains.at(shard.doc_domain()[size_t(d)]);
        ++domain.documents;
        domain.tokens += int64_t(shard.offsets()[size_t(d) + 1] - shard.offsets()[size_t(d)]);
        domain.bytes += shard.doc_bytes()[size_t(d)];
      }
      return {{"kind", "shard"},
              {"file", file.string()},
              {"split", shard.header().split},
              {"vocab", shard.header().vocab_size},
              {"documents", shard.documents()},
              {"tokens", info.tokens},
              {"sha256", info.sha256},
              {"domains", domain_rows(domains)}};
    }
  }
  fail(ExitCode::kData, "{} is not listed in {}", file.string(), manifest_file.string());
}

json inspect_checkpoint(const fs::path& folder) {
  const trainer::CheckpointIndex index = trainer::read_index(folder);
  const std::string problem = trainer::check_files(index, folder, 0, 1);
  json tensors = json::array();
  int64_t parameters = 0;
  for (const auto& [name, tensor] : index.tensors) {
    tensors.push_back(
        {{"name", name}, {"shape", tensor.shape}, {"dtype", tensor.dtype}, {"pieces", tensor.pieces.size()}});
    if (!name.starts_with("optimizer.") && !name.starts_with("reference.")) parameters += tensor.numel();
  }
  uint64_t bytes = 0;
  for (const auto& [name, file] : index.files) bytes += file.bytes;
  return {{"kind", "checkpoint"},
          {"folder", folder.string()},
          {"step", index.step},
          {"whole", problem.empty()},
          {"problem", problem},
          {"parameters", parameters},
          {"files", index.files.size()},
          {"bytes", bytes},
          {"run", index.run},
          {"progress", index.state.value("progress", nlohmann::json::object())},
          {"tensors", tensors}};
}

json inspect_run(const fs::path& folder) {
  json checkpoints = json::array();
  for (uint64_t step : trainer::list_checkpoints(folder / "checkpoints")) {
    json row = {{"step", step}, {"whole", false}, {"problem", ""}};
    const fs::path path = folder / "checkpoints" / trainer::checkpoint_name(step);
    try {
      row["problem"] = trainer::check_files(trainer::read_index(path), path, 0, 1);
    } catch (const Error& error) {
      row["problem"] = error.what();
    }
    row["whole"] = row["problem"] == "";
    checkpoints.push_back(row);
  }
  json last_train, last_eval;
  if (fs::exists(folder / "metrics.jsonl")) {
    const std::string text = base::read_file(folder / "metrics.jsonl", ExitCode::kData);
    for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
      const std::string_view row = std::string_view(text).substr(at, end - at);
      if (base::json_depth(row) > base::kMaxJsonDepth) continue;
      const json line = json::parse(row, nullptr, false);
      if (!line.is_object() || !line.contains("kind")) continue;
      if (line["kind"] == "train") last_train = line;
      if (line["kind"] == "eval") last_eval = line;
    }
  }
  return {{"kind", "run"},
          {"folder", folder.string()},
          {"checkpoints", checkpoints},
          {"last_train", last_train},
          {"last_eval", last_eval}};
}

json inspect(const fs::path& path) {
  require(fs::exists(path), ExitCode::kUsage,
          "{} does not exist; give a shard, manifest.json, checkpoint or run folder", path.string());
  if (!fs::is_directory(path))
    return path.extension() == ".json" ? inspect_manifest(path) : inspect_shard(path);
  if (fs::exists(path / trainer::kIndexFile)) return inspect_checkpoint(path);
  if (fs::exists(path / "manifest.json")) return inspect_manifest(path / "manifest.json");
  if (fs::exists(path / "checkpoints") || fs::exists(path / "metrics.jsonl")) return inspect_run(path);
  fail(ExitCode::kUsage, "{} is none of: shard, manifest.json or its folder, checkpoint, run folder",
       path.string());
}

// Scalars as "key: value", objects indented, lists of flat objects as one line each.
void print_text(const json& value, int indent) {
  for (const auto& [key, item] : value.items()) {
    fmt::print("{:{}}{}:", "", indent, key);
    if (item.is_object() && !item.empty()) {
      fmt::print("\n");
      print_text(item, indent + 2);
    } else if (item.is_array() && !item.empty() && item.front().is_object()) {
      fmt::print("\n");
      for (const json& row : item) {
        fmt::print("{:{}}", "", indent + 2);
        const char* separator = "";
        for (const auto& [name, cell] : row.items()) {
          fmt::print("{}{} {}", separator, name, cell.is_string() ? cell.get<std::string>() : cell.dump());
          separator = "  ";
        }
        fmt::print("\n");
      }
    } else {
      fmt::print(" {}\n", item.is_string() ? item.get<std::string>() : item.dump());
    }
  }
}

}  // namespace

void add_inspect(CLI::App& app, Run& run) {
  const auto path = std::make_shared<std::string>();
  const auto as_json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("inspect", "What is in a shard, manifest, checkpoint or run folder");
  verb->add_option("path", *path, "The file or folder")->required();
  verb->add_flag("--json", *as_json, "One JSON object instead of text");
  verb->callback([path, as_json, &run] {
    run = [path, as_json] {
      const json result = inspect(*path);
      *as_json ? fmt::print("{}\n", result.dump()) : print_text(result, 0);
      return int(ExitCode::kOk);
    };
  });
}

}  // namespace cadre::launch
