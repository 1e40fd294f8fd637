// The few fields of one line of JSON that prepare needs, without building a tree of the rest. Strict (RFC
// 8259) but for one thing: bytes inside strings need not be UTF-8; the text is kept as it is and reported by
// the caller.
#pragma once

#include <string>
#include <string_view>

namespace cadre::data {

// What a line says about one wanted field. A number or true/false is kept as it is written.
struct JsonField {
  std::string name;  // wanted, of the outermost object
  enum class Type { kAbsent, kString, kScalar, kOther } type = Type::kAbsent;
  std::string value;  // of kString and kScalar
};

struct LineFields {
  JsonField text, domain, id;
};

// Overwrites types and values. Returns what is wrong with the line in words, or an empty string. Of a key
// that comes twice the last counts. A lone surrogate (\ud800) becomes its three bytes, which are not valid
// UTF-8.
std::string parse_json_line(std::string_view line, LineFields& fields);

}  // namespace cadre::data
