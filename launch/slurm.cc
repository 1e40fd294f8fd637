#include "launch/slurm.h"

#include <algorithm>
#include <cctype>

#include "launch/mpirun.h"
#include "parallel/base/errors.h"

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

}  // namespace cadre::launch
