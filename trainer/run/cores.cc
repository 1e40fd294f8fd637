#include "trainer/run/cores.h"

#include <algorithm>
#include <atomic>

namespace cadre::trainer {
namespace {

std::atomic<int> processes = 1;

}  // namespace

void share_cores(int count) {
  processes = std::max(1, count);
}

int processes_that_share_cores() {
  return processes;
}

}  // namespace cadre::trainer
