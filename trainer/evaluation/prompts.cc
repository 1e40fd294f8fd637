#include "trainer/evaluation/prompts.h"

#include <algorithm>

#include "parallel/base/errors.h"
#include "parallel/base/files.h"

namespace cadre::trainer {
namespace {

namespace jinja = data::jinja;

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 18 &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

void read_lines(const std::filesystem::path& file, int64_t limit, std::vector<jinja::Map>& documents) {
  const std::string text = base::read_file(file, ExitCode::kData);
  int64_t line = 0;
  for (size_t at = 0; at < text.size() && (limit == 0 || static_cast<int64_t>(documents.size()) < limit);) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view row = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++line;
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const jinja::Json json = jinja::Json::parse(row, nullptr, false);
    require(json.is_object(), ExitCode::kData, "{}, line {}: expected a JSON object on each line",
            file.string(), line);
    documents.push_back(*jinja::from_json(json).map());
  }
}

std::vector<std::string> texts_of(const jinja::Value& value, const std::string& where) {
  std::vector<std::string> texts;
  require(value.list() != nullptr, ExitCode::kData, "{} gives a {}, expected a list", where, value.type());
  for (const jinja::Value& item : *value.list()) texts.push_back(item.str().bytes);
  return texts;
}

}  // namespace

std::vector<jinja::Map> read_documents(const TaskConfig& task, const std::string& split, int64_t limit) {
  std::vector<jinja::Map> documents;
  for (const auto& file : task.files.at(split)) read_lines(file, limit, documents);
  require(!documents.empty(), ExitCode::kData, "{}: the split '{}' has no documents", task.source, split);
  return documents;
}

Prompts::Prompts(const TaskConfig& task)
    : task_(task),
      text_(make(task.text, "doc_to_text")),
      target_(make(task.target, "doc_to_target")),
      choices_(make(task.choices, "doc_to_choice")),
      description_(make({.kind = TaskField::Kind::kText, .text = task.description}, "description")) {}

Prompts::Field Prompts::make(const TaskField& raw, const char* key) const {
  Field field{raw, std::nullopt};
  if (raw.kind == TaskField::Kind::kText) {
    constexpr jinja::TemplateOptions kAsHarness = {
        .lexer = {.trim_blocks = false, .lstrip_blocks = false, .keep_trailing_newline = true},
        .strict_undefined = true};
    field.made.emplace(raw.text, kAsHarness, task_.source + ": " + key);
  }
  return field;
}

// The document's field of that name as it is; else the template's text, or its value when it is one output.
jinja::Value Prompts::value(const Field& field, const jinja::Map& document) const {
  if (field.raw.kind == TaskField::Kind::kAbsent) return "";
  if (field.raw.kind == TaskField::Kind::kNumber) return field.raw.number;
  if (field.raw.kind == TaskField::Kind::kList) {
    jinja::List list;
    for (const std::string& text : field.raw.list) list.emplace_back(text);
    return list;
  }
  if (const jinja::Value* const found = document.find(field.raw.text)) return *found;
  const std::optional<jinja::Value> value = field.made->value(document);
  if (value && (value->list() || value->map())) return *value;
  return field.made->render(document);
}

std::string Prompts::text(const jinja::Map& document) const {
  return value(text_, document).str().bytes;
}

std::vector<std::string> Prompts::choices(const jinja::Map& document) const {
  const jinja::Value found = value(choices_, document);
  if (const jinja::Map* const map = found.map()) {
    std::vector<std::string> texts;
    for (const auto& [_, item] : map->entries) texts.push_back(item.str().bytes);
    return texts;
  }
  return texts_of(found, task_.source + ": doc_to_choice");
}

TaskTarget Prompts::target(const jinja::Map& document) const {
  const jinja::Value found = value(target_, document);
  TaskTarget target;
  if (task_.output != OutputType::kMultipleChoice) {
    target.texts = found.list() ? texts_of(found, "") : std::vector<std::string>{found.str().bytes};
    require(!target.texts.empty(), ExitCode::kData, "{}: doc_to_target gives an empty list", task_.source);
    return target;
  }
  // A number is an index, also when a template writes it; but a field's text is a choice, whatever it looks like.
  const std::vector<std::string> all = choices(document);
  const std::string text = found.str().bytes;
  if (!found.is_text()) {
    target.choice = found.integer();
  } else if (is_number(text) && !document.find(target_.raw.text)) {
    target.choice = std::stoll(text);
  } else {
    target.choice = std::ranges::find(all, text) - all.begin();
  }
  require(target.choice >= 0 && target.choice < static_cast<int64_t>(all.size()), ExitCode::kData,
          "{}: doc_to_target gives '{}', which is none of the {} choices", task_.source, text, all.size());
  return target;
}

std::string Prompts::answer(const jinja::Map& document) const {
  const TaskTarget found = target(document);
  if (task_.output != OutputType::kMultipleChoice) return found.texts[0];
  return choices(document)[static_cast<size_t>(found.choice)];
}

std::string Prompts::context(const jinja::Map& document, const std::vector<jinja::Map>& examples) const {
  std::string context = value(description_, document).str().bytes;
  int64_t left = task_.num_fewshot;
  const jinja::Value own((jinja::Map(document)));
  for (const jinja::Map& example : examples) {
    if (left == 0) break;
    if (task_.split == task_.fewshot_split && jinja::equal(own, jinja::Value(jinja::Map(example)))) continue;
    context += text(example) + task_.target_delimiter + answer(example) + task_.fewshot_delimiter;
    --left;
  }
  require(left == 0, ExitCode::kData, "{}: the split '{}' has too few documents for {} examples",
          task_.source, task_.fewshot_split, task_.num_fewshot);
  return context + text(document);
}

}  // namespace cadre::trainer
