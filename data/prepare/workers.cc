#include "data/prepare/workers.h"

#include <atomic>
#include <limits>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

struct Failure {
  int64_t job = std::numeric_limits<int64_t>::max();
  int code = 0;
  std::string message;
};

Failure describe_failure(int64_t job) {
  try {
    throw;
  } catch (const Error& error) {
    return {job, static_cast<int>(error.code()), error.what()};
  } catch (const std::bad_alloc&) {
    return {job, static_cast<int>(ExitCode::kData),
            "out of memory; use fewer --threads or a smaller --memory"};
  } catch (const std::exception& error) {
    return {job, static_cast<int>(ExitCode::kData), error.what()};
  }
}

Failure run_own_jobs(const comm::Communicator& comm, int threads, int64_t jobs,
                     const std::function<void(int64_t)>& job) {
  std::atomic<int64_t> next = comm.rank();
  std::atomic<bool> failed = false;
  std::mutex mutex;
  Failure first;
  const auto work = [&] {
    // Jobs are taken in order, so when one failed all lower ones are done or under way: the lowest failure is
    // found.
    while (!failed) {
      const int64_t index = next.fetch_add(comm.size());
      if (index >= jobs) return;
      try {
        job(index);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failed = true;
        if (Failure own = describe_failure(index); own.job < first.job) first = std::move(own);
      }
    }
  };
  std::vector<std::jthread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  pool.clear();
  return first;
}

// The lowest job's failure on all ranks, if any.
void throw_lowest(comm::Communicator& comm, const Failure& own, const char* label) {
  const std::string text = own.message.empty() && own.code == 0
                               ? std::string()
                               : nlohmann::json({own.job, own.code, own.message})
                                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  Failure lowest;
  for (const std::string& other : comm.gather_texts(text, label)) {
    if (other.empty()) continue;
    const auto fields = nlohmann::json::parse(other);
    if (fields[0].get<int64_t>() >= lowest.job) continue;
    lowest = {fields[0].get<int64_t>(), fields[1].get<int>(), fields[2].get<std::string>()};
  }
  if (lowest.code != 0) throw Error(static_cast<ExitCode>(lowest.code), lowest.message);
}

}  // namespace

void run_jobs(comm::Communicator& comm, int threads, int64_t jobs, const char* label,
              const std::function<void(int64_t)>& job) {
  throw_lowest(comm, run_own_jobs(comm, threads, jobs, job), label);
}

void run_on_root(comm::Communicator& comm, const char* label, const std::function<void()>& work) {
  Failure own;
  if (comm.rank() == 0) {
    try {
      work();
    } catch (...) {
      own = describe_failure(0);
    }
  }
  throw_lowest(comm, own, label);
}

}  // namespace cadre::data
