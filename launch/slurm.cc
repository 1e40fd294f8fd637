#include "launch/slurm.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <sstream>

#include "launch/mpirun.h"
#include "parallel/base/errors.h"

extern char** environ;

namespace cadre::launch {
namespace {

std::string directive(const std::string& flag) {
  const bool plain =
      flag.starts_with("--") && std::all_of(flag.begin(), flag.end(), [](char c) {
        return std::isalnum(uint8_t(c)) != 0 || std::string("_.:,/+=@%-").find(c) != std::string::npos;
      });
  require(plain, ExitCode::kUsage,
          "cannot put '{}' into a batch script: expected --name=value of letters, digits and _.:,/+=@%-",
          flag);
  return "#SBATCH " + flag + "\n";
}

void replace(std::string& text, const std::string& mark, const std::string& by) {
  text.replace(text.find(mark), mark.size(), by);
}

}  // namespace

std::string batch_script(const SlurmOptions& o, const std::vector<std::string>& launcher) {
  require(o.ranks % o.nodes == 0, ExitCode::kUsage, "-n {} ranks cannot be spread evenly over --nodes {}",
          o.ranks, o.nodes);
  std::vector<std::string> flags = {"--job-name=" + o.name, fmt::format("--nodes={}", o.nodes),
                                    fmt::format("--ntasks-per-node={}", o.ranks / o.nodes),
                                    fmt::format("--signal=B:USR1@{}", o.notice_seconds)};
  if (o.cores_per_rank > 0) flags.push_back(fmt::format("--cpus-per-task={}", o.cores_per_rank));
  if (o.gpus_per_node > 0) flags.push_back(fmt::format("--gpus-per-node={}", o.gpus_per_node));
  if (!o.partition.empty()) flags.push_back("--partition=" + o.partition);
  if (!o.account.empty()) flags.push_back("--account=" + o.account);
  if (!o.time.empty()) flags.push_back("--time=" + o.time);
  if (!o.output.empty()) flags.push_back("--output=" + o.output);
  flags.insert(flags.end(), o.sbatch_flags.begin(), o.sbatch_flags.end());
  std::string directives, script = kJobTemplate;
  for (const std::string& flag : flags) directives += directive(flag);
  directives.pop_back();
  replace(script, "@DIRECTIVES@", directives);
  replace(script, "@LAUNCH@", shell_line(launcher));
  return script;
}

std::string node_cpus(const std::string& partition) {
  std::vector<std::string> words = {"sinfo", "--noheader", "--format=%c"};
  if (!partition.empty()) words.push_back("--partition=" + partition);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return "";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t pid = -1;
  const bool started = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ) == 0;
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string text;
  char part[256];
  for (ssize_t n; started && (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, size_t(n));
  close(ends[0]);
  int status = 1;
  if (started) waitpid(pid, &status, 0);
  return status == 0 ? text : "";
}

int cores_of_rank(const std::string& node_cpus, int ranks_of_node) {
  std::istringstream lines(node_cpus);
  int fewest = 0;
  for (std::string line; std::getline(lines, line);) {
    const int cpus = std::atoi(line.c_str());
    if (cpus > 0 && (fewest == 0 || cpus < fewest)) fewest = cpus;
  }
  return fewest / ranks_of_node;
}

}  // namespace cadre::launch
