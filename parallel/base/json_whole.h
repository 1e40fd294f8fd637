// Whole numbers of a JSON document that is not trusted: get<int64_t>() takes 1e300 too, and what becomes of it is undefined.
#pragma once

#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "parallel/base/errors.h"

namespace cadre::base {

// Throws Error(code) for everything but a whole number that T holds; its message says what was found.
template <class T>
T whole(const nlohmann::json& value, ExitCode code) {
  const bool natural = value.is_number_unsigned();
  const bool fits = natural ? std::in_range<T>(value.get<uint64_t>())
                            : value.is_number_integer() && std::in_range<T>(value.get<int64_t>());
  require(fits, code, "found {}, expected a whole number{}",
          value.is_number() ? value.dump() : value.type_name(), std::is_unsigned_v<T> ? " from 0" : "");
  return natural ? T(value.get<uint64_t>()) : T(value.get<int64_t>());
}

// The same for a list of them.
template <class T>
std::vector<T> wholes(const nlohmann::json& list, ExitCode code) {
  require(list.is_array(), code, "found {}, expected a list", list.type_name());
  std::vector<T> all;
  for (const nlohmann::json& value : list) all.push_back(whole<T>(value, code));
  return all;
}

}  // namespace cadre::base
