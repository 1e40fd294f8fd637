// Spreads numbered jobs over ranks and threads. Job i belongs to rank i % size; a rank's threads take its
// jobs in order. When jobs fail, the failure of the lowest job is thrown, the same on every rank and however
// many there are.
#pragma once

#include <cstdint>
#include <functional>

#include "parallel/comm/communicator.h"

namespace cadre::data {

void run_jobs(comm::Communicator& comm, int threads, int64_t jobs, const char* label,
              const std::function<void(int64_t)>& job);

// Work of rank 0 alone; its failure is thrown on every rank.
void run_on_root(comm::Communicator& comm, const char* label, const std::function<void()>& work);

}  // namespace cadre::data
