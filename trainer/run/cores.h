// Processes that share a machine's cores without being ranks of one run (`--jobs`).
#pragma once

namespace cadre::trainer {

// This process is one of so many that work side by side on this machine: threads_per_rank divides by it. For a process as
// a whole, before it trains.
void share_cores(int processes);
int processes_that_share_cores();

}  // namespace cadre::trainer
