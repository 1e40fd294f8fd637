// Filters: `value | name(arguments)`.
#include <algorithm>
#include <array>
#include <cmath>

#include "data/jinja/library.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

// The text method of the same name, on anything that can be written as text.
template <const char* name>
Value as_method(const Value& value, const Arguments& arguments) {
  return (*find_method(value.str(), name).function())(arguments);
}
constexpr char kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize", kReplace[] = "replace";

Value trim(const Value& value, const Arguments& arguments) {
  arguments.expect("trim", {"chars"});
  return strip(value.str(), arguments.find(0, "chars"), true, true);
}

Value tojson(const Value& value, const Arguments& arguments) {
  arguments.expect("tojson", {"indent", "ensure_ascii"});
  const Value* const ascii = arguments.find(1, "ensure_ascii");
  require(!ascii || !ascii->truth(), ExitCode::kData, "tojson with ensure_ascii is not supported");
  const Value* const indent = arguments.find(0, "indent");
  constexpr int64_t kMaxIndent = 64;
  return to_json(value, !indent || indent->is_none()
                            ? -1
                            : static_cast<int>(std::clamp<int64_t>(indent->integer(), 0, kMaxIndent)));
}

Value otherwise(const Value& value, const Arguments& arguments) {
  arguments.expect("default", {"default_value", "boolean"});
  const Value* const fallback = arguments.find(0, "default_value");
  const Value* const by_truth = arguments.find(1, "boolean");
  const bool absent = value.is_undefined() || (by_truth && by_truth->truth() && !value.truth());
  if (!absent) return value;
  return fallback ? *fallback : Value("");
}

Value join(const Value& value, const Arguments& arguments) {
  arguments.expect("join", {"d", "attribute"});
  const Value* const between = arguments.find(0, "d");
  const Value* const attribute = arguments.find(1, "attribute");
  List texts;
  for (const Value& item : items_of(value))
    texts.emplace_back(attribute ? item_of(item, *attribute).str() : item.str());
  const Value separator = between ? *between : Value("");
  Arguments all;  // not {{texts}, {}}: compilers differ in whether that is one list or all its items
  all.positional.push_back(Value(std::move(texts)));
  return (*find_method(separator.str(), "join").function())(all);
}

Value end_of(const Value& value, bool first) {
  const List items = items_of(value);
  if (items.empty()) return Undefined{first ? "the first item of nothing" : "the last item of nothing"};
  return first ? items.front() : items.back();
}

Value to_int(const Value& value, const Arguments& arguments) {
  arguments.expect("int", {"default"});
  if (value.is_float()) {
    require(std::abs(value.real()) < 1e18, ExitCode::kData, "the number {} is too large", value.real());
    return static_cast<int64_t>(value.real());
  }
  if (value.is_number()) return value.integer();
  const Value* const fallback = arguments.find(0, "default");
  if (value.text()) {
    const std::string digits = strip(*value.text(), nullptr, true, true).bytes;
    const size_t sign = digits.starts_with('-') || digits.starts_with('+') ? 1 : 0;
    const bool number = digits.size() > sign && digits.size() < 18 &&
                        std::all_of(digits.begin() + static_cast<ptrdiff_t>(sign), digits.end(),
                                    [](char c) { return c >= '0' && c <= '9'; });
    if (number) return int64_t(std::stoll(digits));
  }
  return fallback ? *fallback : Value(int64_t(0));
}

Value pairs_of(const Value& value, const Arguments& arguments) {
  if (value.is_undefined()) return List{};
  require(value.map() && !value.map()->is_namespace, ExitCode::kData, "items of a {}, expected a dict",
          value.type());
  return (*find_method(value, "items").function())(arguments);
}

Arguments without_first(const Arguments& arguments, size_t count) {
  Arguments rest;
  for (size_t i = count; i < arguments.positional.size(); ++i)
    rest.positional.push_back(arguments.positional[i]);
  return rest;
}

// map(attribute="a") takes an attribute of each item, map("filter", ...) puts each through a filter.
Value map_items(const Value& value, const Arguments& arguments) {
  List out;
  if (arguments.positional.empty()) {
    arguments.expect("map", {"attribute", "default"});
    const Value* const attribute = arguments.find(0, "attribute");
    const Value* const fallback = arguments.find(1, "default");
    require(attribute != nullptr, ExitCode::kData, "map expects an attribute or a filter");
    for (const Value& item : items_of(value)) {
      const Value found = item_of(item, *attribute);
      out.push_back(found.is_undefined() && fallback ? *fallback : found);
    }
    return out;
  }
  const std::string filter = arguments.positional[0].str().bytes;
  for (const Value& item : items_of(value))
    out.push_back(apply_filter(filter, item, without_first(arguments, 1)));
  return out;
}

// Items, or items by an attribute, for which a test holds, or does not.
Value choose(const Value& value, const Arguments& arguments, bool by_attribute, bool wanted) {
  const size_t before = by_attribute ? 1 : 0;
  require(arguments.positional.size() >= before, ExitCode::kData, "selectattr expects an attribute");
  const bool tested = arguments.positional.size() > before;
  List out;
  for (const Value& item : items_of(value)) {
    const Value subject = by_attribute ? item_of(item, arguments.positional[0]) : item;
    const bool holds = tested ? apply_test(arguments.positional[before].str().bytes, subject,
                                           without_first(arguments, before + 1))
                              : subject.truth();
    if (holds == wanted) out.push_back(item);
  }
  return out;
}

Value reverse(const Value& value, const Arguments&) {
  if (value.text()) return slice(value, {}, {}, int64_t(-1));
  List items = items_of(value);
  std::ranges::reverse(items);
  return items;
}

// Every line but the first moves in by `width` blanks; empty lines stay empty.
Value indent(const Value& value, const Arguments& arguments) {
  arguments.expect("indent", {"width", "first"});
  const Value* const width = arguments.find(0, "width");
  const Value* const first = arguments.find(1, "first");
  constexpr int64_t kMaxWidth = 1000;
  const std::string blanks(
      static_cast<size_t>(std::clamp<int64_t>(width ? width->integer() : 4, 0, kMaxWidth)), ' ');
  Text out(first && first->truth() ? blanks : "");
  Text text = value.str();
  text.append("\n");  // so that a newline at the end stays
  const Value split = (*find_method(text, "splitlines").function())({});
  const List& lines = *split.list();
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append(lines[i].truth() ? "\n" + blanks : "\n");
    out.append(*lines[i].text());
  }
  return out;
}

struct Filter {
  const char* name;
  Value (*apply)(const Value&, const Arguments&);
};
const std::array<Filter, 25> kFilters = {{
    {"trim", trim},
    {"tojson", tojson},
    {"default", otherwise},
    {"d", otherwise},
    {"join", join},
    {"int", to_int},
    {"items", pairs_of},
    {"map", map_items},
    {"reverse", reverse},
    {"indent", indent},
    {"upper", as_method<kUpper>},
    {"lower", as_method<kLower>},
    {"capitalize", as_method<kCapitalize>},
    {"replace", as_method<kReplace>},
    {"length", [](const Value& v, const Arguments&) { return Value(length_of(v)); }},
    {"count", [](const Value& v, const Arguments&) { return Value(length_of(v)); }},
    {"first", [](const Value& v, const Arguments&) { return end_of(v, true); }},
    {"last", [](const Value& v, const Arguments&) { return end_of(v, false); }},
    {"list", [](const Value& v, const Arguments&) { return Value(items_of(v)); }},
    {"string", [](const Value& v, const Arguments&) { return Value(v.str()); }},
    {"safe", [](const Value& v, const Arguments&) { return Value(v.str()); }},
    {"select", [](const Value& v, const Arguments& a) { return choose(v, a, false, true); }},
    {"reject", [](const Value& v, const Arguments& a) { return choose(v, a, false, false); }},
    {"selectattr", [](const Value& v, const Arguments& a) { return choose(v, a, true, true); }},
    {"rejectattr", [](const Value& v, const Arguments& a) { return choose(v, a, true, false); }},
}};

}  // namespace

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments) {
  const auto found = std::ranges::find(kFilters, name, &Filter::name);
  require(found != kFilters.end(), ExitCode::kData, "the filter '{}' is not supported", name);
  return found->apply(value, arguments);
}

}  // namespace cadre::data::jinja
