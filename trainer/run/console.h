// Progress of a run on rank 0's standard output.
#pragma once

#include <chrono>
#include <string>

#include "trainer/run/step.h"

namespace cadre::trainer {

enum class ProgressStyle {
  kNone,
  kLines,     // a line every log.every steps
  kTerminal,  // one line, rewritten
};

class Console {
 public:
  Console(ProgressStyle style, int64_t every);
  // `left_s`: seconds to the end as far as known, negative when not.
  void step(const Progress& progress, const StepReport& report, double tokens_per_s, double left_s);
  void line(const std::string& text);  // keeps the progress line below it

 private:
  ProgressStyle style_;
  int64_t every_;
  bool open_ = false;  // the cursor stands behind a progress line
  std::chrono::steady_clock::time_point last_{};
};
std::string duration_text(double seconds);  // "1:02:03", "4:05"

}  // namespace cadre::trainer
