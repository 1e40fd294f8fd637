// Reading a tokenizer's JSON: every field is checked, and every message names the file, the field, what was
// found and what was expected.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace cadre::data {

using Json = nlohmann::json;

// An object and where it stands, such as "tokenizer.json: model".
class JsonFields {
 public:
  JsonFields(const Json& object, std::string where);  // throws Error(kData) when it is no object

  const std::string& where() const { return where_; }
  bool has(const char* key) const;  // present and not null
  const Json& value(const char* key) const;
  std::string text(const char* key) const;
  bool flag(const char* key, bool otherwise) const;
  int64_t number(const char* key, int64_t least, int64_t most) const;
  const Json& list(const char* key) const;
  JsonFields object(const char* key) const;
  [[noreturn]] void refuse(const char* key, std::string_view expected) const;

 private:
  const Json& object_;  // borrowed
  std::string where_;
};

// Throws Error(kData) for bytes that are no JSON object, or nested deeper than any tokenizer.
Json parse_json(std::string_view text, const std::string& where);

}  // namespace cadre::data
