// A subset of JSON Schema 2020-12, enough for the shape of an answer: type, const, enum, properties, required,
// additionalProperties, minProperties, maxProperties, items, minItems, maxItems, uniqueItems, minLength, maxLength, pattern,
// minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, allOf, anyOf, oneOf, not; title, description, $schema
// and $comment are passed over. Any other keyword is an error when the schema is read, never ignored. Own code, since
// valijson, the one library of both distributions, runs `pattern` on std::regex, which has no limit on its steps.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace cadre::data {

class Schema {
 public:
  // Throws Error(kUsage), naming `where` and the place in the schema.
  Schema(const nlohmann::json& schema, const std::string& where);
  ~Schema();
  // Empty when the value fits, else the first thing that does not: "answer.steps: found 2 items, expected at least 3".
  std::string misfit(const nlohmann::json& value) const;

 private:
  struct Node;
  std::unique_ptr<Node> root_;
};

}  // namespace cadre::data
