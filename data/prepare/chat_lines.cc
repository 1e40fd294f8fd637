#include "data/prepare/chat_lines.h"

#include <fmt/format.h>

#include "parallel/base/json_depth.h"

namespace cadre::data {
namespace {

using Json = nlohmann::ordered_json;

// What is wrong with a list of messages, or nothing.
std::string check_messages(const Json& messages, const std::string& key) {
  if (!messages.is_array() || messages.empty())
    return fmt::format("\"{}\" is a {}, expected text or a list of messages", key, messages.type_name());
  for (const Json& m : messages) {
    if (!m.is_object() || !m.contains("role") || !m["role"].is_string() || !m.contains("content") ||
        !m["content"].is_string())
      return fmt::format("\"{}\" holds a message without the texts \"role\" and \"content\"", key);
  }
  return {};
}

// Text becomes one message of `role`.
std::string read_messages(const Json& line, const std::string& key, const char* role, Json& out) {
  if (!line.contains(key)) return fmt::format("\"{}\" is missing", key);
  out = line[key].is_string() ? Json::array({{{"role", role}, {"content", line[key]}}}) : line[key];
  return check_messages(out, key);
}

// Moves the messages that both begin with to the prompt.
void split_common(ChatExample& e) {
  size_t same = 0;
  while (same < e.chosen.size() && same < e.rejected.size() && e.chosen[same] == e.rejected[same]) ++same;
  for (size_t i = 0; i < same; ++i) e.prompt.push_back(e.chosen[i]);
  for (Json* side : {&e.chosen, &e.rejected}) side->erase(side->begin(), side->begin() + int64_t(same));
}

bool answers_last(const Json& messages) {
  return !messages.empty() && messages.back()["role"] == "assistant";
}

std::string read_instruction(const Json& line, ChatExample& e) {
  if (line.contains("messages")) {
    if (auto wrong = read_messages(line, "messages", "user", e.chosen); !wrong.empty()) return wrong;
  } else {
    if (auto wrong = read_messages(line, "prompt", "user", e.prompt); !wrong.empty()) return wrong;
    if (auto wrong = read_messages(line, "response", "assistant", e.chosen); !wrong.empty()) return wrong;
  }
  return answers_last(e.chosen) ? "" : "the conversation does not end with an answer of the assistant";
}

std::string read_preference(const Json& line, ChatExample& e) {
  if (line.contains("prompt")) {
    if (auto wrong = read_messages(line, "prompt", "user", e.prompt); !wrong.empty()) return wrong;
  }
  for (const auto& [key, side] :
       {std::pair<const char*, Json*>{"chosen", &e.chosen}, {"rejected", &e.rejected}}) {
    if (auto wrong = read_messages(line, key, "assistant", *side); !wrong.empty()) return wrong;
  }
  if (!line.contains("prompt")) split_common(e);
  if (e.chosen == e.rejected) return "the chosen and the rejected answer are the same";
  if (e.prompt.empty()) return "the pair has no prompt";
  if (!answers_last(e.chosen) || !answers_last(e.rejected))
    return "an answer does not end with the assistant";
  return {};
}

std::string read_prompt(const Json& line, ChatExample& e) {
  if (auto wrong = read_messages(line, "prompt", "user", e.prompt); !wrong.empty()) return wrong;
  if (line.contains("answer")) {
    const Json& a = line["answer"];
    if (!a.is_string() && !a.is_number()) return "\"answer\" is neither text nor a number";
    e.answer = a.is_string() ? a.get<std::string>() : a.dump();
    if (e.answer.find('\0') != std::string::npos) return "\"answer\" holds a zero byte";
  }
  if (!line.contains("level")) return {};
  const Json& level = line["level"];
  if (!level.is_number_unsigned() || level.get<uint64_t>() > 65535)
    return "\"level\" is not a whole number from 0 to 65535";
  e.level = level.get<int>();
  return {};
}

}  // namespace

std::string parse_chat_line(const std::string& text, SetKind kind, ChatExample& example) {
  if (base::json_depth(text) > base::kMaxJsonDepth) return "nested too deeply";
  const Json line = Json::parse(text, nullptr, false);
  if (line.is_discarded()) return "not JSON";
  if (!line.is_object()) return fmt::format("a {}, expected an object", line.type_name());
  example = {};
  if (kind == SetKind::kInstruction) return read_instruction(line, example);
  return kind == SetKind::kPreference ? read_preference(line, example) : read_prompt(line, example);
}

}  // namespace cadre::data
