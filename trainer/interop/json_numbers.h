// Numbers of a config.json that may be missing: JsonFields reads those that must be there.
#pragma once

#include "data/tokenizers/json_fields.h"

namespace cadre::interop {

inline double real_or(const data::JsonFields& fields, const char* key, double otherwise) {
  if (!fields.has(key)) return otherwise;
  if (!fields.value(key).is_number()) fields.refuse(key, "a number");
  return fields.value(key).get<double>();
}
inline int64_t integer_or(const data::JsonFields& fields, const char* key, int64_t most, int64_t otherwise) {
  return fields.has(key) ? fields.number(key, 0, most) : otherwise;
}

}  // namespace cadre::interop
