// Finding the files of a tokenizer as people have them, and which tokens start and end documents.
#include <sstream>

#include "data/tokenizers/chat_source.h"
#include "data/tokenizers/tokenizer_file.h"
#include "data/tokenizers/tokenizer_json.h"
#include "parallel/base/errors.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxFileBytes = uint64_t(1) << 26;  // the largest known tokenizers take half of it

Json read_json(const fs::path& file) {
  return parse_json(base::read_file(file, ExitCode::kData, kMaxFileBytes), file.string());
}

// The equivalent tokenizer.json of GPT-2's two files.
Json from_vocab_and_merges(const fs::path& vocab, const fs::path& merges) {
  Json rules = Json::array();
  std::istringstream lines(base::read_file(merges, ExitCode::kData, kMaxFileBytes));
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !line.starts_with("#version")) rules.push_back(line);
  }
  Json tokens = read_json(vocab);
  // The one special token of GPT-2 stands in the vocabulary like any other.
  constexpr const char* kEnd = "<|endoftext|>";
  Json added = Json::array();
  if (tokens.contains(kEnd)) {
    added.push_back({{"id", tokens[kEnd]}, {"content", kEnd}, {"normalized", false}, {"special", true}});
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) added.back()[flag] = false;
  }
  return {{"version", "1.0"},
          {"added_tokens", std::move(added)},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"decoder",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model", {{"type", "BPE"}, {"vocab", std::move(tokens)}, {"merges", std::move(rules)}}}};
}

Json read_document(const fs::path& file) {
  if (file.filename() == "encoder.json") return from_vocab_and_merges(file, file.parent_path() / "vocab.bpe");
  if (file.filename() == "vocab.json") return from_vocab_and_merges(file, file.parent_path() / "merges.txt");
  return read_json(file);
}

fs::path find_file(const fs::path& path) {
  if (!fs::is_directory(path)) return path;
  for (const char* name : {"tokenizer.json", "encoder.json", "vocab.json"}) {
    if (fs::exists(path / name)) return path / name;
  }
  fail(ExitCode::kData,
       "{} is a folder without a tokenizer: found none of tokenizer.json, encoder.json (with vocab.bpe), "
       "vocab.json (with merges.txt); give a folder with one of them, or the file itself, also a "
       "SentencePiece .model",
       path.string());
}

bool has_special(const JsonFields& file, const char* token) {
  if (!file.has("added_tokens")) return false;
  for (const Json& entry : file.list("added_tokens")) {
    if (entry.is_object() && entry.contains("content") && entry["content"] == token &&
        entry.contains("special") && entry["special"] == true) {
      return true;
    }
  }
  return false;
}

// tokenizer_config.json names a token by its text, or by an object that holds it.
std::string named_in_config(const JsonFields& config, const char* key) {
  if (!config.has(key)) return "";
  return config.value(key).is_object() ? config.object(key).text("content") : config.text(key);
}

// What was asked for, else what the configuration says, else, without one, the names that known families use.
// A family without a start (Qwen) has documents start with what ends them.
DocumentMarks choose_marks(const JsonFields& file, const fs::path& config_file, DocumentMarks marks) {
  DocumentMarks found;
  if (fs::exists(config_file)) {
    const Json document = read_json(config_file);
    const JsonFields config(document, config_file.string());
    found = {named_in_config(config, "bos_token"), named_in_config(config, "eos_token")};
  } else {
    for (const char* name : {"<eos>", "<|endoftext|>", "<|end_of_text|>", "</s>"})
      if (has_special(file, name)) found.eos = name;
    for (const char* name : {"<bos>", "<|endoftext|>", "<|begin_of_text|>", "<s>"})
      if (has_special(file, name)) found.bos = name;
  }
  if (marks.eos.empty()) marks.eos = found.eos;
  if (marks.bos.empty()) marks.bos = found.bos.empty() ? marks.eos : found.bos;
  require(
      !marks.eos.empty(), ExitCode::kData,
      "{}: no token is known to end documents; put the tokenizer_config.json beside it, or name the token",
      file.where());
  return marks;
}

}  // namespace

std::unique_ptr<BpeTokenizer> import_tokenizer(const fs::path& path, const DocumentMarks& marks) {
  const fs::path file = find_file(path);
  Json document = read_document(file);
  const JsonFields fields(document, file.string());
  const Roles roles = read_roles(fields);
  if (roles.bos < 0 || roles.eos < 0 || !marks.bos.empty() || !marks.eos.empty()) {
    write_roles(document, choose_marks(fields, file.parent_path() / "tokenizer_config.json", marks),
                file.string());
    write_chat(document, find_chat(file));
  }
  return make_bpe_tokenizer(document, file.string());
}

}  // namespace cadre::data
