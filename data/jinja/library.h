// What templates can call: filters, tests, and the methods of texts and maps. Anything else is refused by name.
#pragma once

#include <string>
#include <string_view>

#include "data/jinja/value.h"

namespace cadre::data::jinja {

// Throw Error(kData) for a name that is not known, and for values that the operation does not take.
Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments);
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments);
// A method of a text or a map, bound to it; undefined when there is none of that name.
Value find_method(const Value& value, const std::string& name);

// Python's str.strip and its sides: blanks, or any of the characters in `characters`.
Text strip(const Text& text, const Value* characters, bool left, bool right);
// Python's str.replace; count below 0: all.
Text replace(const Text& text, std::string_view from, const Text& to, int64_t count);
// Python's slice of a text or a list; an absent bound is undefined.
Value slice(const Value& value, const Value& begin, const Value& end, const Value& step);
// value.name and value[key], undefined when there is none.
Value attribute_of(const Value& value, const std::string& name);
Value item_of(const Value& value, const Value& key);

}  // namespace cadre::data::jinja
