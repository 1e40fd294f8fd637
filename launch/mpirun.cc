#include "launch/mpirun.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "parallel/base/errors.h"

namespace cadre::launch {
namespace {

bool in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access((folder + "/" + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

}  // namespace

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::string> cores;  // a core is known by the list of its hardware threads
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string siblings;
    if (!(file >> siblings)) siblings = std::to_string(cpu);
    cores.insert(siblings);
  }
  return std::max<int>(1, int(cores.size()));
}

namespace {

// GPUs are not bound: every rank sees its job's GPUs of the node and takes its own, since NCCL copies directly only between
// GPUs that a process sees.
std::vector<std::string> srun_command(const StartOptions& start) {
  require(in_path("srun"), ExitCode::kUsage, "srun is not in PATH; use --starter mpirun");
  std::vector<std::string> command = {
      "srun", "--ntasks", std::to_string(start.ranks), "--mpi=pmix", "--cpu-bind=none",
      // Not at once: ranks that end with code 75 after their checkpoint do not end in the same instant.
      "--kill-on-bad-exit=0", "--wait=10"};
  // Since Slurm 22.05 a step does not take this over from its job.
  const char* const cores = std::getenv("SLURM_CPUS_PER_TASK");
  if (cores != nullptr) command.push_back(std::string("--cpus-per-task=") + cores);
  return command;
}

std::vector<std::string> mpirun_command(const StartOptions& start) {
  require(in_path("mpirun"), ExitCode::kUsage,
          "mpirun is not in PATH, so {} ranks cannot be started; install Open MPI (openmpi-bin), or use -n 1",
          start.ranks);
  // No binding: a rank's threads would all share the one core that Open MPI binds it to.
  std::vector<std::string> command = {"mpirun", "-np", std::to_string(start.ranks), "--bind-to", "none"};
  if (!start.hosts.empty()) {
    std::string list;
    for (const Host& host : start.hosts)
      list += fmt::format("{}{}:{}", list.empty() ? "" : ",", host.name, host.slots);
    command.insert(command.end(), {"--host", list, "-x", "OPENBLAS_NUM_THREADS", "-x", "OMP_NUM_THREADS"});
  }
  const int slots = start.hosts.empty() ? start.cores : total_slots(start.hosts);
  if (start.ranks > slots) command.push_back("--oversubscribe");
  return command;
}

}  // namespace

std::vector<std::string> start_command(const StartOptions& start, const std::vector<std::string>& rank) {
  if (start.starter == Starter::kMpirun && start.ranks == 1 && start.hosts.empty()) return rank;
  std::vector<std::string> command =
      start.starter == Starter::kSrun ? srun_command(start) : mpirun_command(start);
  command.insert(command.end(), rank.begin(), rank.end());
  return command;
}

std::string describe_places(const StartOptions& start, int threads) {
  const char* const elsewhere = start.on_gpus ? "; each takes the GPU of its number on its host" : "";
  if (start.starter == Starter::kSrun)
    return fmt::format("{} ranks, placed by Slurm{}", start.ranks, elsewhere);
  if (!start.hosts.empty()) {
    std::string list;
    for (const Host& host : start.hosts)
      list += fmt::format("{}{} ({})", list.empty() ? "" : ", ", host.name, host.slots);
    return fmt::format("{} ranks over the slots of {}{}", start.ranks, list, elsewhere);
  }
  std::string gpus;
  for (int rank = 0; start.on_gpus && rank < start.ranks; ++rank)
    gpus += fmt::format("{} rank {} on GPU {}", rank == 0 ? ";" : ",", rank, rank);
  if (start.on_gpus && start.gpus > 0) gpus += fmt::format(" of {}", start.gpus);
  const int share = std::max(1, start.cores / start.ranks);
  return fmt::format("{} rank{} on this host with {} core{}: {} thread{} each{}", start.ranks,
                     start.ranks > 1 ? "s" : "", start.cores, start.cores > 1 ? "s" : "",
                     threads > 0 ? threads : share, (threads > 0 ? threads : share) > 1 ? "s" : "", gpus);
}

std::vector<std::pair<std::string, std::string>> rank_environment(bool root) {
  std::vector<std::pair<std::string, std::string>> environment = {{"OPENBLAS_NUM_THREADS", "1"},
                                                                  {"OMP_NUM_THREADS", "1"}};
  if (root) {
    environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
    environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return environment;
}

std::string shell_line(const std::vector<std::string>& command) {
  std::string line;
  for (const std::string& word : command) {
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789-_./=:,+@%") == std::string::npos;
    if (!line.empty()) line += ' ';
    if (plain) {
      line += word;
      continue;
    }
    line += '\'';
    for (char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

}  // namespace cadre::launch
