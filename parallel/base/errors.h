// Errors that stop a run, and the exit codes they end in. Everything that cannot go on throws Error; main() catches it
// once, prints one line and returns the code. Messages say what was found, what was expected and what to change.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace cadre {

// The process exit codes of every verb. Scripts rely on them: do not renumber.
enum class ExitCode : int {
  kOk = 0,
  kUsage = 2,       // command line or run file
  kData = 3,        // inputs, shards, manifest, tokenizer
  kCheckpoint = 4,  // missing, damaged or unwritable checkpoint
  kComm = 5,        // communication failed, timed out, or a rank was lost
  kNumeric = 6,     // non-finite loss or gradient past the allowed skips
  kStopped = 75,    // stopped early on request, checkpoint written: run me again
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// For conditions that depend on user input, files or other ranks. Internal invariants use assert().
template <class... Args>
void require(bool condition, ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace cadre
