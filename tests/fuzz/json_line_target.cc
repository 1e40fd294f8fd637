// One line of the JSONL that `cadre prepare` reads: as a document, and as an example of each kind.
#include "data/prepare/json_line.h"

#include "data/prepare/chat_lines.h"
#include "tests/fuzz/targets.h"

void cadre::fuzz::json_line_target(std::string_view line) {
  data::LineFields fields{{.name = "text"}, {.name = "domain"}, {.name = "id"}};
  const std::string wrong = data::parse_json_line(line, fields);
  // What another parser takes as an object is refused for its depth alone. That parser ends at a zero byte.
  const bool object =
      line.find('\0') == std::string_view::npos && nlohmann::json::parse(line, nullptr, false).is_object();
  if (object && !wrong.empty() && wrong.find("deeply") == std::string::npos) std::abort();
  for (const auto kind : {data::SetKind::kInstruction, data::SetKind::kPreference, data::SetKind::kPrompts}) {
    data::ChatExample example;
    (void)data::parse_chat_line(std::string(line), kind, example);
  }
}
