#include "data/tokenizers/tokenizer_file.h"

#include <unordered_set>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

constexpr const char* kRole = "cadre_role";

void read_vocabulary(const JsonFields& model, BpeSource& source) {
  const JsonFields vocab = model.object("vocab");
  const Json& tokens = model.value("vocab");
  require(!tokens.empty(), ExitCode::kData, "{}: no tokens", vocab.where());
  source.ids.reserve(tokens.size());
  std::unordered_set<int64_t> taken;
  for (const auto& [token, id] : tokens.items()) {
    const int64_t number = vocab.number(token.c_str(), 0, kMaxTokenId);
    require(taken.insert(number).second, ExitCode::kData, "{}: two tokens have the id {}, one is '{}'",
            vocab.where(), number, token);
    source.ids.emplace(token, static_cast<int32_t>(number));
  }
}

// Each merge is ["a", "b"], or "a b" in older files.
void read_merges(const JsonFields& model, BpeSource& source) {
  const Json& merges = model.list("merges");
  const auto refuse = [&](size_t number) {
    fail(ExitCode::kData, "{}: merge {} is neither \"a b\" nor [\"a\", \"b\"]", model.where(), number);
  };
  source.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const size_t blank = text.find(' ');
      if (blank == std::string::npos || text.find(' ', blank + 1) != std::string::npos) refuse(i);
      source.merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
    } else {
      if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) refuse(i);
      source.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
}

void require_unused(const JsonFields& model, const char* key) {
  if (model.has(key) && !model.text(key).empty())
    model.refuse(key, "none: this kind of BPE is not supported");
}

const JsonFields entry_at(const JsonFields& file, const Json& entry, size_t i) {
  return {entry, fmt::format("{}: added_tokens {}", file.where(), i)};
}

int32_t id_in(const Json& document, const std::string& token, const std::string& where) {
  const JsonFields vocab = JsonFields(document, where).object("model").object("vocab");
  require(vocab.has(token.c_str()), ExitCode::kData,
          "{}: the token '{}', which should start or end documents, is not in the vocabulary; name another",
          where, token);
  return static_cast<int32_t>(vocab.number(token.c_str(), 0, kMaxTokenId));
}

void write_role(Json& document, const std::string& token, const char* role, const std::string& where) {
  Json& entries = document["added_tokens"];
  if (entries.is_null()) entries = Json::array();
  require(entries.is_array(), ExitCode::kData, "{}: 'added_tokens' is not a list", where);
  Json* entry = nullptr;
  for (Json& e : entries) {
    if (e.is_object() && e.contains("content") && e["content"] == token) entry = &e;
  }
  if (!entry) {
    entries.push_back({{"id", id_in(document, token, where)}, {"content", token}});
    entry = &entries.back();
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) (*entry)[flag] = false;
  }
  (*entry)["special"] = true;
  const bool both = entry->contains(kRole) && (*entry)[kRole] != role;
  (*entry)[kRole] = both ? "bos eos" : role;
}

}  // namespace

BpeSource read_bpe(const JsonFields& file, bool byte_level) {
  const JsonFields model = file.object("model");
  if (model.has("type") && model.text("type") != "BPE")
    model.refuse("type", "\"BPE\": other models are not supported");
  if (model.has("dropout") && model.value("dropout") != 0)
    model.refuse("dropout", "none: encoding would be random");
  require_unused(model, "continuing_subword_prefix");
  require_unused(model, "end_of_word_suffix");
  BpeSource source;
  source.byte_level = byte_level;
  source.byte_fallback = model.flag("byte_fallback", false);
  source.fuse_unk = model.flag("fuse_unk", false);
  source.ignore_merges = model.flag("ignore_merges", false);
  if (model.has("unk_token")) source.unk_token = model.text("unk_token");
  read_vocabulary(model, source);
  read_merges(model, source);
  return source;
}

std::vector<AddedToken> read_added_tokens(const JsonFields& file, const BpeSource& source) {
  std::vector<AddedToken> tokens;
  if (!file.has("added_tokens")) return tokens;
  std::unordered_set<int32_t> taken;
  for (const auto& [_, id] : source.ids) taken.insert(id);
  const Json& entries = file.list("added_tokens");
  for (size_t i = 0; i < entries.size(); ++i) {
    const JsonFields entry = entry_at(file, entries[i], i);
    AddedToken token;
    token.content = entry.text("content");
    token.id = static_cast<int32_t>(entry.number("id", 0, kMaxTokenId));
    token.single_word = entry.flag("single_word", false);
    token.lstrip = entry.flag("lstrip", false);
    token.rstrip = entry.flag("rstrip", false);
    token.special = entry.flag("special", false);
    token.normalized = entry.flag("normalized", !token.special);
    if (const auto known = source.ids.find(token.content); known != source.ids.end()) {
      require(known->second == token.id, ExitCode::kData,
              "{}: '{}' has the id {} here and {} in the vocabulary", entry.where(), token.content, token.id,
              known->second);
    } else {
      require(taken.insert(token.id).second, ExitCode::kData, "{}: '{}' has the id {} of another token",
              entry.where(), token.content, token.id);
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

Roles read_roles(const JsonFields& file) {
  Roles roles;
  if (!file.has("added_tokens")) return roles;
  const Json& entries = file.list("added_tokens");
  for (size_t i = 0; i < entries.size(); ++i) {
    const JsonFields entry = entry_at(file, entries[i], i);
    if (!entry.has(kRole)) continue;
    const std::string role = entry.text(kRole);
    const auto id = static_cast<int32_t>(entry.number("id", 0, kMaxTokenId));
    if (role != "bos" && role != "eos" && role != "bos eos") entry.refuse(kRole, "bos, eos, or both");
    if (role != "eos") roles.bos = id;
    if (role != "bos") roles.eos = id;
  }
  return roles;
}

void write_roles(Json& document, const DocumentMarks& marks, const std::string& where) {
  if (document.contains("added_tokens") && document["added_tokens"].is_array()) {
    for (Json& entry : document["added_tokens"]) {
      if (entry.is_object()) entry.erase(kRole);
    }
  }
  write_role(document, marks.bos, "bos", where);
  write_role(document, marks.eos, "eos", where);
}

}  // namespace cadre::data
