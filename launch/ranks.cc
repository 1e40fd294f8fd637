#include "launch/ranks.h"

#include <chrono>
#include <filesystem>
#include <new>
#include <string>
#include <thread>

#include "parallel/base/blackbox.h"
#include "parallel/base/log.h"

namespace cadre::launch {

namespace {

// Most mistakes (a bad run file, a missing shard) are found by all ranks at once. Rank 0 speaks and aborts
// first, so that the user reads one line and not one a rank; only an error of another rank alone outlives
// this pause.
constexpr auto kLetRankZeroSpeak = std::chrono::milliseconds(300);

}  // namespace

int report_failure(int rank, int num_ranks) {
  const std::string who = num_ranks > 1 ? fmt::format("rank {} of {}: ", rank, num_ranks) : "";
  try {
    throw;
  } catch (const Error& error) {
    fmt::print(stderr, "cadre: {}{}\n", who, error.what());
    base::remember(error.what());
    return int(error.code());
  } catch (const std::filesystem::filesystem_error& error) {
    const std::string line = fmt::format("{}: {}", error.path1().string(), error.code().message());
    fmt::print(stderr, "cadre: {}{}\n", who, line);
    base::remember(line);
    return int(ExitCode::kData);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr,
               "cadre: {}out of memory: make the model or train.micro_batch smaller, or use fewer ranks\n",
               who);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cadre: {}unexpected failure: {}\n", who, error.what());
    base::remember(error.what());
  }
  return 1;
}

int run_ranks(const std::function<int(comm::World&)>& body) {
  const std::unique_ptr<comm::World> world = comm::make_world(nullptr, nullptr);
  base::init_log(world->rank());
  try {
    return body(*world);
  } catch (...) {
    if (world->size() == 1) throw;
    if (world->rank() != 0) std::this_thread::sleep_for(kLetRankZeroSpeak);
    const int code = report_failure(world->rank(), world->size());
    world->abort(code);
    return code;
  }
}

}  // namespace cadre::launch
