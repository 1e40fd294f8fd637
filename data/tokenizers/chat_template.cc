#include "data/tokenizers/chat_template.h"

#include <algorithm>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

using jinja::Json;
using jinja::Value;

constexpr jinja::TemplateOptions kAsTransformers = {
    .lexer = {.trim_blocks = true, .lstrip_blocks = true, .keep_trailing_newline = false},
    .strict_undefined = false};

// Roles and kinds are the format's, everything else in a message is its author's.
bool is_authored(const std::string& key) {
  return key != "role" && key != "type" && key != "id" && key != "tool_call_id";
}

Value marked_message(const Json& message, int32_t source) {
  jinja::Map map;
  for (const auto& [key, value] : message.items())
    map.set(key, jinja::from_json(value, is_authored(key) ? source : jinja::kNoSource));
  return map;
}

Value raise_exception(const jinja::Arguments& arguments) {
  arguments.expect("raise_exception", {"message"});
  const Value* const message = arguments.find(0, "message");
  fail(ExitCode::kData, "the template refuses this conversation: {}", message ? message->str().bytes : "");
}

jinja::Function strftime_now(std::time_t now) {
  return [now](const jinja::Arguments& arguments) -> Value {
    arguments.expect("strftime_now", {"format"});
    const Value* const format = arguments.find(0, "format");
    require(format && format->text(), ExitCode::kData, "strftime_now expects a format");
    const std::time_t at = now != 0 ? now : std::time(nullptr);
    std::tm parts = {};
    localtime_r(&at, &parts);
    char buffer[256];
    return std::string(buffer, std::strftime(buffer, sizeof(buffer), format->text()->bytes.c_str(), &parts));
  };
}

void check_messages(const Json& messages) {
  require(messages.is_array(), ExitCode::kData, "messages are {}, expected a list", messages.type_name());
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    require(message.is_object() && message.contains("role") && message["role"].is_string(), ExitCode::kData,
            "message {} is no object with a \"role\"", i + 1);
  }
}

bool is_assistant(const Json& messages, int32_t source) {
  return source >= 0 && messages[static_cast<size_t>(source)]["role"] == "assistant";
}

// Bytes from the first to the last mark of each assistant message, or of each {% generation %} block.
std::vector<ChatAnswer> marked_parts(const jinja::Text& text, const Json& messages) {
  std::vector<ChatAnswer> parts;
  const bool blocks = std::ranges::any_of(
      text.marks, [](const jinja::Mark& mark) { return mark.source == jinja::kGenerationSource; });
  int32_t next = 0;
  for (const jinja::Mark& mark : text.marks) {
    if (blocks && mark.source == jinja::kGenerationSource) {
      while (next < static_cast<int32_t>(messages.size()) && !is_assistant(messages, next)) ++next;
      parts.push_back({mark.begin, mark.end, next++});
    } else if (!blocks && is_assistant(messages, mark.source)) {
      if (parts.empty() || parts.back().message != mark.source) parts.push_back({mark.begin, 0, mark.source});
      parts.back().end = mark.end;
    }
  }
  return parts;
}

// Where the first of the special tokens behind `at` ends, if it stands before `limit`; else `at`.
size_t end_of_turn(const std::string& text, size_t at, size_t limit,
                   const std::vector<std::string>& special) {
  size_t first = std::string::npos, end = at;
  for (const std::string& token : special) {
    const size_t found = token.empty() ? std::string::npos : text.find(token, at);
    if (found == std::string::npos || found + token.size() > limit) continue;
    const size_t token_end = found + token.size();
    if (found > first || (found == first && token_end < end)) continue;
    first = found;
    end = token_end;
  }
  return end;
}

}  // namespace

ChatTemplate::ChatTemplate(const std::string& source, Tokens tokens, const std::string& where)
    : template_(source, kAsTransformers, where), tokens_(std::move(tokens)) {}

jinja::Text ChatTemplate::render_marked(const Json& messages, const ChatOptions& options, bool prompt) const {
  jinja::Map variables;
  variables.set("tools", jinja::None{});
  variables.set("documents", jinja::None{});
  for (const auto& [name, text] : tokens_.names) variables.set(name, text);
  for (const auto& [name, value] : options.variables.items()) variables.set(name, jinja::from_json(value));
  jinja::List list;
  for (size_t i = 0; i < messages.size(); ++i)
    list.push_back(marked_message(messages[i], static_cast<int32_t>(i)));
  variables.set("messages", std::move(list));
  variables.set("add_generation_prompt", prompt);
  variables.set("raise_exception", jinja::Function(raise_exception));
  variables.set("strftime_now", strftime_now(options.now));
  return template_.render(variables);
}

// What the template puts behind these messages to ask for an answer; empty when that is not simply added.
std::string ChatTemplate::generation_prompt(const Json& messages, const ChatOptions& options) const {
  const std::string without = render_marked(messages, options, false).bytes;
  const std::string with = render_marked(messages, options, true).bytes;
  return with.starts_with(without) ? with.substr(without.size()) : "";
}

ChatText ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  check_messages(messages);
  const jinja::Text text = render_marked(messages, options, options.add_generation_prompt);
  ChatText chat{text.bytes, marked_parts(text, messages)};
  if (chat.answers.empty()) return chat;
  const bool blocks =
      text.marks.end() != std::ranges::find(text.marks, jinja::kGenerationSource, &jinja::Mark::source);
  if (blocks) return chat;  // the template says what the model writes
  const std::string prompt = generation_prompt(messages, options);
  size_t floor = 0;
  for (ChatAnswer& answer : chat.answers) {
    size_t limit = text.bytes.size();
    for (const jinja::Mark& mark : text.marks) {
      if (mark.source == answer.message) continue;
      if (mark.end <= answer.begin) floor = std::max(floor, mark.end);
      if (mark.begin >= answer.end) limit = std::min(limit, mark.begin);
    }
    // What the template itself puts before the answer, such as an empty thought, the model will write as well.
    if (!prompt.empty() && answer.begin >= prompt.size()) {
      const size_t found = text.bytes.rfind(prompt, answer.begin - prompt.size());
      if (found != std::string::npos && found >= floor) answer.begin = found + prompt.size();
    }
    answer.end = end_of_turn(text.bytes, answer.end, limit, tokens_.special);
    floor = answer.end;
  }
  return chat;
}

}  // namespace cadre::data
