// The methods of Python's str, dict and namespaces that templates use.
#include <algorithm>
#include <array>

#include "data/jinja/library.h"
#include "data/tokenizers/unicode.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

// Python's str.isspace: White_Space and the four separators of ASCII.
bool is_blank(uint32_t c) {
  return is_space(c) || (c >= 0x1c && c <= 0x1f);
}

const Text& text_argument(const Arguments& arguments, size_t position, std::string_view name,
                          std::string_view who) {
  const Value* const value = arguments.find(position, name);
  require(value && value->text(), ExitCode::kData, "{} expects a text as its argument {}", who, position + 1);
  return *value->text();
}

bool starts_or_ends(const Text& text, const Arguments& arguments, bool starts) {
  const char* const who = starts ? "startswith" : "endswith";
  arguments.expect(who, {"prefix"});
  const Value* const given = arguments.find(0, "prefix");
  require(given != nullptr, ExitCode::kData, "{} expects a text", who);
  const List choices = given->list() ? *given->list() : List{*given};
  return std::ranges::any_of(choices, [&](const Value& choice) {
    require(choice.text() != nullptr, ExitCode::kData, "{} expects a text, found a {}", who, choice.type());
    return starts ? text.bytes.starts_with(choice.text()->bytes) : text.bytes.ends_with(choice.text()->bytes);
  });
}

// Words between blanks.
List split_blanks(const Text& text, int64_t most) {
  List words;
  Text rest = strip(text, nullptr, true, false);
  while (!rest.bytes.empty()) {
    const std::vector<size_t> starts = character_starts(rest.bytes);
    size_t end = rest.bytes.size();
    for (size_t i = 0; i + 1 < starts.size() && most != 0; ++i) {
      if (is_blank(code_point(rest.bytes.data() + starts[i], starts[i + 1] - starts[i]))) {
        end = starts[i];
        break;
      }
    }
    words.emplace_back(rest.slice(0, end));
    rest = strip(rest.slice(end, rest.bytes.size()), nullptr, true, false);
    --most;
  }
  return words;
}

Value split(const Text& text, const Arguments& arguments) {
  arguments.expect("split", {"sep", "maxsplit"});
  const Value* const count = arguments.find(1, "maxsplit");
  int64_t most = count ? count->integer() : -1;
  const Value* const by = arguments.find(0, "sep");
  if (!by || by->is_none()) return split_blanks(text, most);
  const std::string separator = text_argument(arguments, 0, "sep", "split").bytes;
  require(!separator.empty(), ExitCode::kData, "split by an empty text");
  List parts;
  size_t at = 0;
  for (size_t found; most != 0 && (found = text.bytes.find(separator, at)) != std::string::npos; --most) {
    parts.emplace_back(text.slice(at, found));
    at = found + separator.size();
  }
  parts.emplace_back(text.slice(at, text.bytes.size()));
  return parts;
}

bool ends_line(uint32_t c) {
  return (c >= '\n' && c <= '\r') || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

Value split_lines(const Text& text) {
  List lines;
  const std::vector<size_t> starts = character_starts(text.bytes);
  size_t at = 0;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    if (!ends_line(code_point(text.bytes.data() + starts[i], starts[i + 1] - starts[i]))) continue;
    lines.emplace_back(text.slice(at, starts[i]));
    if (text.bytes.compare(starts[i], 2, "\r\n") == 0) ++i;
    at = starts[i + 1];
  }
  if (at < text.bytes.size()) lines.emplace_back(text.slice(at, text.bytes.size()));
  return lines;
}

// Case is only known for ASCII here; Python changes other letters by tables.
Text with_case(const Text& text, std::string_view how) {
  Text out = text;
  bool start = true;  // of a word for title, of the text for capitalize
  for (char& c : out.bytes) {
    require(static_cast<uint8_t>(c) < 0x80, ExitCode::kData,
            "{} of a text that is not ASCII is not supported", how);
    const bool up = how == "upper" || (how != "lower" && start);
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter) c = static_cast<char>(up ? c & ~0x20 : c | 0x20);
    start = how == "title" && !letter;
  }
  return out;
}

Text join(const Text& between, const Arguments& arguments) {
  const Value* const list = arguments.find(0, "iterable");
  require(list != nullptr, ExitCode::kData, "join expects a list");
  Text out;
  bool first = true;
  for (const Value& item : items_of(*list)) {
    require(item.text() != nullptr, ExitCode::kData, "join expects texts, found a {}", item.type());
    if (!first) out.append(between);
    out.append(*item.text());
    first = false;
  }
  return out;
}

Value count_or_find(const Text& text, const Arguments& arguments, bool count) {
  const char* const who = count ? "count" : "find";
  arguments.expect(who, {"sub"});
  const std::string& part = text_argument(arguments, 0, "sub", who).bytes;
  if (!count) {
    const size_t at = text.bytes.find(part);
    if (at == std::string::npos) return int64_t(-1);
    return static_cast<int64_t>(character_starts(text.bytes.substr(0, at)).size()) - 1;
  }
  require(!part.empty(), ExitCode::kData, "count of an empty text");
  int64_t found = 0;
  for (size_t at = 0; (at = text.bytes.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

Text without(const Text& text, const Arguments& arguments, bool prefix) {
  const std::string& part =
      text_argument(arguments, 0, "prefix", prefix ? "removeprefix" : "removesuffix").bytes;
  const size_t size = text.bytes.size();
  if (prefix) return text.bytes.starts_with(part) ? text.slice(part.size(), size) : text;
  return text.bytes.ends_with(part) ? text.slice(0, size - part.size()) : text;
}

Text replace_method(const Text& text, const Arguments& arguments) {
  arguments.expect("replace", {"old", "new", "count"});
  const Value* const count = arguments.find(2, "count");
  return replace(text, text_argument(arguments, 0, "old", "replace").bytes,
                 text_argument(arguments, 1, "new", "replace"), count ? count->integer() : -1);
}

using TextMethod = Value (*)(const Text&, const Arguments&);
struct NamedMethod {
  const char* name;
  TextMethod call;
};
const std::array<NamedMethod, 17> kTextMethods = {{
    {"startswith", [](const Text& t, const Arguments& a) { return Value(starts_or_ends(t, a, true)); }},
    {"endswith", [](const Text& t, const Arguments& a) { return Value(starts_or_ends(t, a, false)); }},
    {"strip",
     [](const Text& t, const Arguments& a) { return Value(strip(t, a.find(0, "chars"), true, true)); }},
    {"lstrip",
     [](const Text& t, const Arguments& a) { return Value(strip(t, a.find(0, "chars"), true, false)); }},
    {"rstrip",
     [](const Text& t, const Arguments& a) { return Value(strip(t, a.find(0, "chars"), false, true)); }},
    {"split", split},
    {"splitlines",
     [](const Text& t, const Arguments& a) {
       a.expect("splitlines", {});
       return split_lines(t);
     }},
    {"replace", [](const Text& t, const Arguments& a) { return Value(replace_method(t, a)); }},
    {"upper", [](const Text& t, const Arguments&) { return Value(with_case(t, "upper")); }},
    {"lower", [](const Text& t, const Arguments&) { return Value(with_case(t, "lower")); }},
    {"title", [](const Text& t, const Arguments&) { return Value(with_case(t, "title")); }},
    {"capitalize", [](const Text& t, const Arguments&) { return Value(with_case(t, "capitalize")); }},
    {"join", [](const Text& t, const Arguments& a) { return Value(join(t, a)); }},
    {"count", [](const Text& t, const Arguments& a) { return count_or_find(t, a, true); }},
    {"find", [](const Text& t, const Arguments& a) { return count_or_find(t, a, false); }},
    {"removeprefix", [](const Text& t, const Arguments& a) { return Value(without(t, a, true)); }},
    {"removesuffix", [](const Text& t, const Arguments& a) { return Value(without(t, a, false)); }},
}};

Value map_method(const Value& value, const std::string& name) {
  if (name == "get") {
    const auto get = [value](const Arguments& arguments) -> Value {
      arguments.expect("get", {"key", "default"});
      const Value* const found = value.map()->find(text_argument(arguments, 0, "key", "get").bytes);
      if (found) return *found;
      const Value* const otherwise = arguments.find(1, "default");
      return otherwise ? *otherwise : Value(None{});
    };
    return {get, value};
  }
  if (name == "keys") return {[value](const Arguments&) { return Value(items_of(value)); }, value};
  if (name != "items" && name != "values") return {};
  const auto all = [value, pairs = name == "items"](const Arguments&) {
    List list;
    for (const auto& [key, item] : value.map()->entries)
      list.push_back(pairs ? Value(List{key, item}) : item);
    return Value(std::move(list));
  };
  return {all, value};
}

}  // namespace

Text strip(const Text& text, const Value* characters, bool left, bool right) {
  const bool blanks = !characters || characters->is_none();
  require(blanks || characters->text(), ExitCode::kData, "strip expects a text");
  const auto goes = [&](std::string_view character) {
    if (blanks)
      return utf8_length(character.data(), character.data() + character.size()) > 0 &&
             is_blank(code_point(character.data(), character.size()));
    return characters->text()->bytes.find(character) != std::string::npos;
  };
  const std::vector<size_t> starts = character_starts(text.bytes);
  const auto character = [&](size_t i) {
    return std::string_view(text.bytes).substr(starts[i], starts[i + 1] - starts[i]);
  };
  size_t first = 0, last = starts.size() - 1;
  while (left && first < last && goes(character(first))) ++first;
  while (right && first < last && goes(character(last - 1))) --last;
  return text.slice(starts[first], starts[last]);
}

Text replace(const Text& text, std::string_view from, const Text& to, int64_t count) {
  require(!from.empty(), ExitCode::kData, "replace of an empty text is not supported");
  Text out;
  size_t at = 0;
  for (size_t found; count != 0 && (found = text.bytes.find(from, at)) != std::string::npos; --count) {
    out.append(text.slice(at, found));
    out.append(to);
    at = found + from.size();
  }
  out.append(text.slice(at, text.bytes.size()));
  return out;
}

Value find_method(const Value& value, const std::string& name) {
  if (value.text()) {
    const auto found = std::ranges::find(kTextMethods, name, &NamedMethod::name);
    if (found == kTextMethods.end()) return {};
    const auto method = [text = *value.text(), call = found->call](const Arguments& arguments) {
      return call(text, arguments);
    };
    return {method, value};
  }
  return value.map() && !value.map()->is_namespace ? map_method(value, name) : Value();
}

}  // namespace cadre::data::jinja
