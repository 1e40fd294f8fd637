#include "data/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {

void Text::append(const Text& other) {
  require(bytes.size() + other.bytes.size() <= kMaxTextBytes, ExitCode::kData,
          "a template makes a text of more than {} MiB", kMaxTextBytes >> 20);
  const size_t at = bytes.size();
  bytes += other.bytes;
  for (const Mark& mark : other.marks) {
    if (!marks.empty() && marks.back().end == at + mark.begin && marks.back().source == mark.source) {
      marks.back().end = at + mark.end;
    } else {
      marks.push_back({at + mark.begin, at + mark.end, mark.source});
    }
  }
}

Text Text::slice(size_t begin, size_t end) const {
  Text part(bytes.substr(begin, end - begin));
  for (const Mark& mark : marks) {
    const size_t first = std::max(mark.begin, begin), last = std::min(mark.end, end);
    if (first < last) part.marks.push_back({first - begin, last - begin, mark.source});
  }
  return part;
}

void Text::mark_all(int32_t source) {
  marks.clear();
  if (!bytes.empty()) marks.push_back({0, bytes.size(), source});
}

const Value* Map::find(std::string_view key) const {
  const auto found = std::ranges::find_if(entries, [&](const auto& entry) { return entry.first == key; });
  return found == entries.end() ? nullptr : &found->second;
}

void Map::set(const std::string& key, Value value) {
  const auto found = std::ranges::find_if(entries, [&](const auto& entry) { return entry.first == key; });
  if (found != entries.end()) {
    found->second = std::move(value);
  } else {
    entries.emplace_back(key, std::move(value));
  }
}

Value::Value(Text text) : held_(std::move(text)), weight_(1 + std::get<Text>(held_).bytes.size() / 64) {}

void Value::hold(const Value& item) {
  require(!item.map() || !item.map()->is_namespace, ExitCode::kData, "a namespace inside of another value");
  weight_ += item.weight_;
  depth_ = std::max(depth_, item.depth_ + 1);
  require(weight_ <= kMaxValueWeight && depth_ <= kMaxValueDepth, ExitCode::kData,
          "a template makes a value of more than {} items or {} levels", kMaxValueWeight, kMaxValueDepth);
}

Value::Value(List list) {
  for (const Value& item : list) hold(item);
  held_ = std::make_shared<const List>(std::move(list));
}

Value::Value(Map map) {
  for (const auto& [key, item] : map.entries) {
    weight_ += key.size() / 64;
    hold(item);
  }
  held_ = std::make_shared<Map>(std::move(map));
}

Value::Value(Function function, const Value& bound) : Value(std::move(function)) {
  hold(bound);
}

const List* Value::list() const {
  const auto* const held = std::get_if<std::shared_ptr<const List>>(&held_);
  return held ? held->get() : nullptr;
}
Map* Value::map() const {
  const auto* const held = std::get_if<std::shared_ptr<Map>>(&held_);
  return held ? held->get() : nullptr;
}
const Function* Value::function() const {
  const auto* const held = std::get_if<std::shared_ptr<const Function>>(&held_);
  return held ? held->get() : nullptr;
}

int64_t Value::integer() const {
  if (is_bool()) return std::get<bool>(held_) ? 1 : 0;
  require(is_int(), ExitCode::kData, "found a value of type {}, expected an int", type());
  return std::get<int64_t>(held_);
}

double Value::real() const {
  return is_float() ? std::get<double>(held_) : static_cast<double>(integer());
}

std::string Value::name() const {
  return is_undefined() ? std::get<Undefined>(held_).name : "";
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_float()) return real() != 0;
  if (is_number()) return integer() != 0;
  if (const Text* const t = text()) return !t->bytes.empty();
  if (const List* const l = list()) return !l->empty();
  if (const Map* const m = map()) return m->is_namespace || !m->entries.empty();
  return true;
}

const char* Value::type() const {
  constexpr const char* kNames[] = {"undefined", "NoneType", "bool", "int",     "float",
                                    "str",       "list",     "dict", "function"};
  return kNames[held_.index()];
}

Text Value::str() const {
  if (const Text* const t = text()) return *t;
  if (is_undefined()) return {};
  if (is_none()) return "None";
  if (is_bool()) return integer() != 0 ? "True" : "False";
  if (is_int()) return std::to_string(integer());
  if (is_float()) return float_text(real());
  fail(ExitCode::kData, "a {} is written as text, which is not supported; use the filter tojson", type());
}

const Value* Arguments::find(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  const auto found = std::ranges::find_if(named, [&](const auto& entry) { return entry.first == name; });
  return found == named.end() ? nullptr : &found->second;
}

void Arguments::expect(std::string_view who, std::initializer_list<const char*> names) const {
  require(positional.size() <= names.size(), ExitCode::kData, "{} got {} arguments, expected at most {}", who,
          positional.size(), names.size());
  for (const auto& entry : named) {
    require(std::ranges::find(names, entry.first) != names.end(), ExitCode::kData,
            "{} has no argument '{}' here", who, entry.first);
  }
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_float() || b.is_float() ? a.real() == b.real() : a.integer() == b.integer();
  }
  if (a.text() && b.text()) return a.text()->bytes == b.text()->bytes;
  if (a.list() && b.list()) return std::ranges::equal(*a.list(), *b.list(), equal);
  if (a.map() && b.map()) {
    const auto same = [&](const auto& entry) {
      const Value* const other = b.map()->find(entry.first);
      return other && equal(entry.second, *other);
    };
    return a.map()->entries.size() == b.map()->entries.size() && std::ranges::all_of(a.map()->entries, same);
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

int compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return (a.real() > b.real()) - (a.real() < b.real());
    return (a.integer() > b.integer()) - (a.integer() < b.integer());
  }
  // UTF-8 sorts as its code points do.
  if (a.text() && b.text()) return a.text()->bytes.compare(b.text()->bytes);
  fail(ExitCode::kData, "a {} and a {} are compared, which have no order", a.type(), b.type());
}

bool contains(const Value& container, const Value& item) {
  if (const Text* const text = container.text()) {
    require(item.text() != nullptr, ExitCode::kData, "'in' looks for a {} in a text, expected a text",
            item.type());
    return text->bytes.find(item.text()->bytes) != std::string::npos;
  }
  if (const Map* const map = container.map()) return item.text() && map->find(item.text()->bytes);
  const List items = items_of(container);
  return std::ranges::any_of(items, [&](const Value& one) { return equal(one, item); });
}

List items_of(const Value& value) {
  if (value.is_undefined()) return {};
  if (const List* const list = value.list()) return *list;
  List items;
  if (const Text* const text = value.text()) {
    const std::vector<size_t> starts = character_starts(text->bytes);
    require(starts.size() <= kMaxValueWeight, ExitCode::kData,
            "going through a text of more than {} characters", kMaxValueWeight);
    for (size_t i = 0; i + 1 < starts.size(); ++i) items.emplace_back(text->slice(starts[i], starts[i + 1]));
    return items;
  }
  require(value.map() && !value.map()->is_namespace, ExitCode::kData,
          "a {} cannot be gone through item by item", value.type());
  for (const auto& [key, _] : value.map()->entries) items.emplace_back(key);
  return items;
}

int64_t length_of(const Value& value) {
  if (value.is_undefined()) return 0;
  if (const Text* const text = value.text())
    return static_cast<int64_t>(character_starts(text->bytes).size()) - 1;
  if (const List* const list = value.list()) return static_cast<int64_t>(list->size());
  require(value.map() && !value.map()->is_namespace, ExitCode::kData, "a {} has no length", value.type());
  return static_cast<int64_t>(value.map()->entries.size());
}

std::vector<size_t> character_starts(std::string_view text) {
  std::vector<size_t> starts;
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end; p += std::max<size_t>(utf8_length(p, end), 1))
    starts.push_back(static_cast<size_t>(p - text.data()));
  starts.push_back(text.size());
  return starts;
}

}  // namespace cadre::data::jinja
