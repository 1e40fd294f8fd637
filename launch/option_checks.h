// Ranges of numbers on the command line, as CLI11 should check them: its own let nan pass, and print the largest double in full.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <string>

namespace cadre::launch {

// The text as a number, whole; false when it is none. nan and inf are numbers here.
template <class T>
bool whole_number(const std::string& text, T& value) {
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stopped == end;
}

inline CLI::Validator at_least(int64_t min) {
  const std::string range = fmt::format("at least {}", min);
  return {[=](std::string& text) {
            int64_t value = 0;
            if (whole_number(text, value) && value >= min) return std::string();
            return fmt::format("found '{}', expected an integer of {}", text, range);
          },
          range};
}

inline CLI::Validator between(double min, double max) {
  const std::string range = fmt::format("{} to {}", min, max);
  return {[=](std::string& text) {
            double value = 0;
            if (whole_number(text, value) && value >= min && value <= max) return std::string();
            return fmt::format("found '{}', expected a number from {}", text, range);
          },
          range};
}

}  // namespace cadre::launch
