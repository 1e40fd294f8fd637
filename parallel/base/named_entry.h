// find_entry (table.h) for a name that stands in a run file: an unknown one is refused with its file, line and key.
#pragma once

#include <string>
#include <vector>

#include "parallel/base/table.h"

namespace cadre::base {

// `name` is what the key `name` of `section` says.
template <class Maker>
const Entry<Maker>& find_entry(const std::vector<Entry<Maker>>& table, const std::string& kind,
                               const Section& section, const std::string& name) try {
  return find_entry(table, kind, name);
} catch (const Error& error) {
  section.reject("name", error.what());
}

}  // namespace cadre::base
