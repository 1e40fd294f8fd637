// Reading and writing manifest.json (docs/formats.md, "Manifest").
#include "data/manifest.h"

#include <nlohmann/json.hpp>

#include "parallel/base/errors.h"
#include "parallel/base/files.h"
#include "parallel/base/json_depth.h"

namespace cadre::data {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr uint64_t kMaxManifestBytes = uint64_t(1) << 28;
constexpr int64_t kMaxCount = int64_t(1) << 62;  // also of the sums over a split

json parse(const std::string& text, const std::string& file) {
  require(base::json_depth(text) <= base::kMaxJsonDepth, ExitCode::kData,
          "{}: not a manifest: nested too deeply. Run `cadre prepare` again", file);
  try {
    return json::parse(text);
  } catch (const json::exception& e) {
    fail(ExitCode::kData, "{}: not a manifest: {}. Run `cadre prepare` again", file, e.what());
  }
}

// Reads one value of the right type, or says which key of which file is wrong.
class Fields {
 public:
  Fields(const json& object, std::string file, std::string path)
      : object_(object), file_(std::move(file)), path_(std::move(path)) {
    require(object.is_object(), ExitCode::kData, "{}: {} is a {}, expected a map", file_, path_,
            object.type_name());
  }
  std::string text(const char* key) const {
    const json& value = find(key);
    require(value.is_string(), ExitCode::kData, "{}: {}.{} is a {}, expected a string", file_, path_, key,
            value.type_name());
    return value.get<std::string>();
  }
  int64_t count(const char* key, int64_t max = kMaxCount) const {
    const json& value = find(key);
    require(value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t(max), ExitCode::kData,
            "{}: {}.{} is {}, expected a whole number from 0 to {}", file_, path_, key, value.dump(), max);
    return value.get<int64_t>();
  }
  std::vector<Fields> list(const char* key) const {
    const json& value = find(key);
    require(value.is_array(), ExitCode::kData, "{}: {}.{} is a {}, expected a list", file_, path_, key,
            value.type_name());
    std::vector<Fields> out;
    for (size_t i = 0; i < value.size(); ++i)
      out.emplace_back(value[i], file_, fmt::format("{}.{}[{}]", path_, key, i));
    return out;
  }
  Fields map(const char* key) const { return Fields(find(key), file_, path_ + "." + key); }

 private:
  const json& find(const char* key) const {
    const auto it = object_.find(key);
    require(it != object_.end(), ExitCode::kData, "{}: {} lacks '{}'", file_, path_, key);
    return *it;
  }
  const json& object_;
  std::string file_, path_;
};

Split read_split(const Fields& fields, const std::string& file) {
  Split split;
  split.name = fields.text("name");
  int64_t documents = 0, tokens = 0, bytes = 0;
  const auto add = [&](int64_t& sum, int64_t n) {
    require(n <= kMaxCount - sum, ExitCode::kData, "{}: split '{}' counts more than {} of one kind", file,
            split.name, kMaxCount);
    sum += n;
  };
  for (const Fields& f : fields.list("domains")) {
    split.domains.push_back({f.text("name"), f.count("documents"), f.count("tokens"), f.count("bytes")});
    add(documents, split.domains.back().documents);
    add(tokens, split.domains.back().tokens);
    add(bytes, split.domains.back().bytes);
  }
  int64_t shard_documents = 0, shard_tokens = 0;
  for (const Fields& f : fields.list("shards")) {
    const ShardInfo info{f.text("file"), uint64_t(f.count("bytes")), f.text("sha256"), f.count("documents"),
                         f.count("tokens")};
    const std::filesystem::path path = info.file;
    bool inside = !path.empty() && path.is_relative();
    for (const auto& part : path) inside = inside && part != "..";
    require(inside, ExitCode::kData, "{}: shard '{}' of split '{}' lies outside the manifest's folder", file,
            info.file, split.name);
    add(shard_documents, info.documents);
    add(shard_tokens, info.tokens);
    split.shards.push_back(info);
  }
  require(documents == shard_documents && tokens == shard_tokens, ExitCode::kData,
          "{}: the domains of split '{}' count {} documents and {} tokens more than its shards; expected "
          "equal sums. Run "
          "`cadre prepare` again",
          file, split.name, documents - shard_documents, tokens - shard_tokens);
  return split;
}

void check_same_domains(const Manifest& manifest, const std::string& file) {
  for (const Split& split : manifest.splits) {
    bool same = split.domains.size() == manifest.splits[0].domains.size();
    for (size_t k = 0; same && k < split.domains.size(); ++k)
      same = split.domains[k].name == manifest.splits[0].domains[k].name;
    require(same, ExitCode::kData,
            "{}: splits '{}' and '{}' list different domains; expected the same names in the same order",
            file, manifest.splits[0].name, split.name);
  }
}

SetKind read_kind(const json& root, const std::string& file) {
  if (!root.contains("kind")) return SetKind::kText;
  for (const SetKind kind : {SetKind::kInstruction, SetKind::kPreference, SetKind::kPrompts}) {
    if (root["kind"] == name_of(kind)) return kind;
  }
  fail(ExitCode::kData, "{}: manifest.kind is {}, expected instruction, preference or prompts", file,
       root["kind"].dump());
}

}  // namespace

const char* name_of(SetKind kind) {
  constexpr const char* kNames[] = {"text", "instruction", "preference", "prompts"};
  return kNames[static_cast<int>(kind)];
}

const Split& Manifest::split(const std::string& name) const {
  std::string known;
  for (const Split& s : splits) {
    if (s.name == name) return s;
    known += (known.empty() ? "" : ", ") + s.name;
  }
  fail(ExitCode::kData, "{}: no split '{}'; it has: {}", (folder / "manifest.json").string(), name, known);
}

Manifest load_manifest(const std::filesystem::path& file) {
  const std::string name = file.string();
  std::error_code error;
  require(!std::filesystem::is_directory(file, error), ExitCode::kData,
          "{} is a folder; give the manifest.json that `cadre prepare` wrote into it", name);
  require(file.is_absolute() || std::filesystem::exists(file, error), ExitCode::kData,
          "cannot open {}: no such file from {}, where the command runs", name,
          std::filesystem::current_path(error).string());
  const std::string text = base::read_file(file, ExitCode::kData, kMaxManifestBytes);
  const json root = parse(text, name);
  const Fields fields(root, name, "manifest");
  const int64_t version = fields.count("format_version");
  require(version == Manifest::kFormatVersion, ExitCode::kData,
          "{}: format version {}, expected {}. Prepare the data again with this version of cadre", name,
          version, Manifest::kFormatVersion);
  Manifest m;
  m.folder = file.parent_path();
  const Fields tokenizer = fields.map("tokenizer");
  m.tokenizer_file = tokenizer.text("file");
  m.tokenizer_kind = tokenizer.text("kind");
  m.tokenizer_sha256 = tokenizer.text("sha256");
  m.vocab_size = static_cast<int>(tokenizer.count("vocab_size", int64_t(1) << 30));
  require(m.vocab_size > 0, ExitCode::kData, "{}: manifest.tokenizer.vocab_size is 0, expected at least 1",
          name);
  m.bos = static_cast<int>(tokenizer.count("bos", m.vocab_size - 1));
  m.eos = static_cast<int>(tokenizer.count("eos", m.vocab_size - 1));
  m.kind = read_kind(root, name);
  for (const Fields& f : fields.list("splits")) m.splits.push_back(read_split(f, name));
  check_same_domains(m, name);
  m.hash = base::sha256_text(text);
  return m;
}

void save_manifest(const Manifest& manifest, const std::filesystem::path& file) {
  ordered_json root;
  root["format_version"] = Manifest::kFormatVersion;
  root["tokenizer"] = {{"file", manifest.tokenizer_file},
                       {"kind", manifest.tokenizer_kind},
                       {"sha256", manifest.tokenizer_sha256},
                       {"vocab_size", manifest.vocab_size},
                       {"bos", manifest.bos},
                       {"eos", manifest.eos}};
  if (manifest.kind != SetKind::kText) root["kind"] = name_of(manifest.kind);
  root["splits"] = ordered_json::array();
  for (const Split& split : manifest.splits) {
    ordered_json s;
    s["name"] = split.name;
    s["domains"] = ordered_json::array();
    for (const DomainInfo& d : split.domains) {
      s["domains"].push_back(
          {{"name", d.name}, {"documents", d.documents}, {"tokens", d.tokens}, {"bytes", d.bytes}});
    }
    s["shards"] = ordered_json::array();
    for (const ShardInfo& i : split.shards) {
      s["shards"].push_back({{"file", i.file},
                             {"bytes", i.bytes},
                             {"sha256", i.sha256},
                             {"documents", i.documents},
                             {"tokens", i.tokens}});
    }
    root["splits"].push_back(std::move(s));
  }
  base::write_file_atomic(file, root.dump(1) + "\n", ExitCode::kData);
}

}  // namespace cadre::data
