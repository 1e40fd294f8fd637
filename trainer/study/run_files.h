// What a run of a study leaves in its folder when it is over, and who makes it until then.
#pragma once

#include <optional>
#include <vector>

#include "parallel/base/file_lock.h"
#include "trainer/study/run_result.h"

namespace cadre::study {

// Nothing when the run is not over. Throws Error(kData) for a file that cannot be read.
std::optional<RunResult> load_result(const StudyConfig& study, const StudyRun& run);
void save_result(const StudyConfig& study, const RunResult& result);
// Makes runs that failed count as not begun. For one process.
void forget_failures(const StudyConfig& study);

// Which run this process makes next. Any number of processes may work on one study, on any machines that share its folder:
// a run belongs to the process that holds the lock on its file `claim`, until that ends or is killed. For one process.
class Claims {
 public:
  explicit Claims(const StudyConfig& study);

  static constexpr int64_t kNoneLeft = -1;      // all are over
  static constexpr int64_t kOthersAtWork = -2;  // of what is left, others make some and the rest needs those
  // The number of the first run that is not over, that nobody makes, and whose references are over. It stays
  // claimed until it is released.
  int64_t next();
  void release() { held_.reset(); }
  size_t num_left() const;  // runs that were not over when next() looked

 private:
  bool over(size_t run);
  bool ready(const StudyRun& run);

  const StudyConfig& study_;
  std::vector<bool> over_;
  std::optional<base::FileLock> held_;
};

}  // namespace cadre::study
