// Attributes, items and slices, as Python and Jinja2 look them up.
#include <algorithm>

#include "data/jinja/library.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

// Where a bound of a slice lies among `size` items going forward (step > 0) or backward.
int64_t clamp_bound(const Value& bound, int64_t otherwise, int64_t size, bool forward) {
  if (bound.is_undefined() || bound.is_none()) return otherwise;
  int64_t at = bound.integer();
  if (at < 0) at += size;
  return forward ? std::clamp<int64_t>(at, 0, size) : std::clamp<int64_t>(at, -1, size - 1);
}

Value text_item(const Text& text, int64_t at) {
  const std::vector<size_t> starts = character_starts(text.bytes);
  const auto size = static_cast<int64_t>(starts.size()) - 1;
  if (at < 0) at += size;
  if (at < 0 || at >= size) return {};
  return text.slice(starts[static_cast<size_t>(at)], starts[static_cast<size_t>(at) + 1]);
}

}  // namespace

Value slice(const Value& value, const Value& begin, const Value& end, const Value& step) {
  require(value.text() || value.list(), ExitCode::kData, "a {} cannot be sliced", value.type());
  const int64_t by = step.is_undefined() || step.is_none() ? 1 : step.integer();
  require(by != 0, ExitCode::kData, "a slice with the step 0");
  const bool forward = by > 0;
  const int64_t size = length_of(value);
  const int64_t first = clamp_bound(begin, forward ? 0 : size - 1, size, forward);
  const int64_t last = clamp_bound(end, forward ? size : -1, size, forward);
  const Text* const text = value.text();
  const std::vector<size_t> starts = text ? character_starts(text->bytes) : std::vector<size_t>();
  if (text && by == 1) {
    if (first >= last) return "";
    return text->slice(starts[static_cast<size_t>(first)], starts[static_cast<size_t>(last)]);
  }
  List items;
  Text joined;
  for (int64_t i = first; forward ? i < last : i > last;) {
    const auto at = static_cast<size_t>(i);
    if (text) {
      joined.append(text->slice(starts[at], starts[at + 1]));
    } else {
      items.push_back((*value.list())[at]);
    }
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  return text ? Value(std::move(joined)) : Value(std::move(items));
}

// Python's attributes come before items of the same name, as in Jinja2.
Value attribute_of(const Value& value, const std::string& name) {
  require(!value.is_undefined(), ExitCode::kData, "'{}' is undefined, so it has no '{}'", value.name(), name);
  if (const Map* const map = value.map()) {
    if (Value method = find_method(value, name); !method.is_undefined()) return method;
    if (const Value* const found = map->find(name)) return *found;
  } else if (Value method = find_method(value, name); !method.is_undefined()) {
    return method;
  }
  return Undefined{name};
}

Value item_of(const Value& value, const Value& key) {
  require(!value.is_undefined(), ExitCode::kData, "'{}' is undefined, so it has no items", value.name());
  if (const Text* const name = key.text()) {
    if (const Map* const map = value.map()) {
      if (const Value* const found = map->find(name->bytes)) return *found;
    }
    return attribute_of(value, name->bytes);
  }
  if (!key.is_int() && !key.is_bool()) return Undefined{key.type()};
  if (const Text* const text = value.text()) return text_item(*text, key.integer());
  if (const List* const list = value.list()) {
    const auto size = static_cast<int64_t>(list->size());
    const int64_t at = key.integer() + (key.integer() < 0 ? size : 0);
    if (at >= 0 && at < size) return (*list)[static_cast<size_t>(at)];
  }
  return Undefined{"item " + std::to_string(key.integer())};
}

}  // namespace cadre::data::jinja
