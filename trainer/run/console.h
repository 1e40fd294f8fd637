// Progress of a run on rank 0's terminal: one line that is rewritten, or plain lines when the output is not a
// terminal.
#pragma once

#include <chrono>
#include <string>

#include "trainer/run/step.h"

namespace cadre::trainer {

class Console {
 public:
  Console(bool enabled, int64_t every);
  // `left_s`: seconds to the end as far as known, negative when not.
  void step(const Progress& progress, const StepReport& report, double tokens_per_s, double left_s);
  void line(const std::string& text);  // keeps the progress line below it

 private:
  bool enabled_, terminal_;
  int64_t every_;
  bool open_ = false;  // the cursor stands behind a progress line
  std::chrono::steady_clock::time_point last_{};
};
std::string duration_text(double seconds);  // "1:02:03", "4:05"

}  // namespace cadre::trainer
