#include "launch/open_files.h"

#include <sys/resource.h>

#include <algorithm>

namespace cadre::launch {

// Where it cannot be raised, whoever cannot open a file says so.
void raise_open_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(limit.rlim_max, rlim_t(kMostOpenFiles)));
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace cadre::launch
