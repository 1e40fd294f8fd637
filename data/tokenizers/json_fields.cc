#include "data/tokenizers/json_fields.h"

#include <utility>

#include "parallel/base/errors.h"
#include "parallel/base/json_depth.h"

namespace cadre::data {
namespace {

// At most some dozen characters of a value, for messages.
std::string excerpt(const Json& value) {
  constexpr size_t kMost = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

}  // namespace

JsonFields::JsonFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  require(object.is_object(), ExitCode::kData, "{}: found {}, expected an object", where_, excerpt(object));
}

bool JsonFields::has(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

const Json& JsonFields::value(const char* key) const {
  const auto found = object_.find(key);
  require(found != object_.end(), ExitCode::kData, "{}: the field '{}' is missing", where_, key);
  return *found;
}

void JsonFields::refuse(const char* key, std::string_view expected) const {
  fail(ExitCode::kData, "{}: '{}' is {}, expected {}", where_, key, excerpt(value(key)), expected);
}

std::string JsonFields::text(const char* key) const {
  const Json& found = value(key);
  if (!found.is_string()) refuse(key, "a string");
  return found.get<std::string>();
}

bool JsonFields::flag(const char* key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const Json& found = value(key);
  if (!found.is_boolean()) refuse(key, "true or false");
  return found.get<bool>();
}

int64_t JsonFields::number(const char* key, int64_t least, int64_t most) const {
  const Json& found = value(key);
  const bool fits =
      found.is_number_integer() && (!found.is_number_unsigned() || found.get<uint64_t>() >> 63 == 0);
  const int64_t n = fits ? found.get<int64_t>() : least;
  if (!fits || n < least || n > most) refuse(key, fmt::format("a whole number from {} to {}", least, most));
  return n;
}

const Json& JsonFields::list(const char* key) const {
  const Json& found = value(key);
  if (!found.is_array()) refuse(key, "a list");
  return found;
}

JsonFields JsonFields::object(const char* key) const {
  return {value(key), where_ + ": " + key};
}

Json parse_json(std::string_view text, const std::string& where) {
  const int depth = base::json_depth(text);
  require(depth <= base::kMaxJsonDepth, ExitCode::kData, "{}: nested {} deep, expected at most {}", where,
          depth, base::kMaxJsonDepth);
  Json document;
  try {
    document = Json::parse(text);
  } catch (const Json::exception& error) {
    fail(ExitCode::kData, "{}: no JSON: {}", where, error.what());
  }
  require(document.is_object(), ExitCode::kData, "{}: found {}, expected an object", where,
          excerpt(document));
  return document;
}

}  // namespace cadre::data
