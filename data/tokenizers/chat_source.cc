#include "data/tokenizers/chat_source.h"

#include "parallel/base/errors.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxBytes = uint64_t(1) << 24;
constexpr const char* kChat = "cadre_chat";
constexpr const char* kNames[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                  "sep_token", "cls_token", "mask_token"};

// Some files hold several templates by name.
std::string template_text(const JsonFields& config) {
  if (!config.has("chat_template")) return "";
  if (!config.value("chat_template").is_array()) return config.text("chat_template");
  for (const Json& entry : config.list("chat_template")) {
    const JsonFields fields(entry, config.where() + ": chat_template");
    if (fields.text("name") == "default") return fields.text("template");
  }
  config.refuse("chat_template", "a template called 'default' among them");
}

ChatSource read_config(const JsonFields& config) {
  ChatSource chat{template_text(config), {}};
  for (const char* const name : kNames) {
    if (!config.has(name)) continue;
    const bool object = config.value(name).is_object();
    chat.names.emplace_back(name, object ? config.object(name).text("content") : config.text(name));
  }
  return chat;
}

}  // namespace

ChatSource find_chat(const fs::path& path) {
  require(fs::exists(path), ExitCode::kData, "{}: no such file or folder", path.string());
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  const bool named = path.filename() == "tokenizer_config.json";
  const fs::path config = named ? path : folder / "tokenizer_config.json";
  ChatSource chat;
  if (fs::exists(config)) {
    const Json document = parse_json(base::read_file(config, ExitCode::kData, kMaxBytes), config.string());
    chat = read_config({document, config.string()});
  }
  const bool is_template = path.extension() == ".jinja";
  const fs::path text = is_template ? path : folder / "chat_template.jinja";
  if (is_template || (!named && fs::exists(text)))
    chat.text = base::read_file(text, ExitCode::kData, kMaxBytes);
  return chat;
}

ChatSource read_chat(const JsonFields& file) {
  ChatSource chat;
  if (!file.has("added_tokens")) return chat;
  for (const Json& entry : file.list("added_tokens")) {
    const JsonFields fields(entry, file.where() + ": added_tokens");
    if (!fields.has(kChat)) continue;
    const JsonFields held = fields.object(kChat);
    chat.text = held.text("template");
    const JsonFields names = held.object("names");
    for (const auto& [name, _] : held.value("names").items())
      chat.names.emplace_back(name, names.text(name.c_str()));
  }
  return chat;
}

void write_chat(Json& document, const ChatSource& chat) {
  if (chat.text.empty()) return;
  for (Json& entry : document["added_tokens"]) {
    if (!entry.is_object() || !entry.value("cadre_role", "").ends_with("eos")) continue;
    Json names = Json::object();
    for (const auto& [name, text] : chat.names) names[name] = text;
    entry[kChat] = {{"template", chat.text}, {"names", std::move(names)}};
  }
}

}  // namespace cadre::data
