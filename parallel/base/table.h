// An explicit table of variants: name -> maker. Every kind (routers, mixers, optimizers, ...) has one, in a file next
// to its variants. An unknown name prints the table and the nearest entry.
#pragma once

#include <string>
#include <vector>

#include "parallel/base/config.h"
#include "parallel/base/errors.h"

namespace cadre::base {

template <class Maker>
struct Entry {
  const char* name;
  const char* about;  // one line for the error message and the docs
  Maker make;
};

// The entry called `name`; throws Error(kUsage) listing the table. `kind` is the section's name ("router").
template <class Maker>
const Entry<Maker>& find_entry(const std::vector<Entry<Maker>>& table, const std::string& kind,
                               const std::string& name) {
  std::vector<std::string> names;
  for (const auto& entry : table) {
    if (name == entry.name) return entry;
    names.push_back(entry.name);
  }
  std::string message = fmt::format("unknown {} '{}'", kind, name);
  if (const std::string near = nearest(name, names); !near.empty())
    message += fmt::format(", did you mean '{}'?", near);
  message += fmt::format(" Known {}s:", kind);
  for (const auto& entry : table) message += fmt::format("\n  {:<16} {}", entry.name, entry.about);
  throw Error(ExitCode::kUsage, message);
}

}  // namespace cadre::base
