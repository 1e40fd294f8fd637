// `cadre launch --slurm`: the batch script of a run, from the template launch/slurm/job.sbatch.
#pragma once

#include <string>
#include <vector>

namespace cadre::launch {

struct SlurmOptions {
  int ranks = 1, nodes = 1, cores_per_rank = 0, gpus_per_node = 0;  // 0: not asked for
  std::string partition, account, time, name = "cadre", output;
  int notice_seconds = 120;               // SIGUSR1 so long before the time limit
  std::vector<std::string> sbatch_flags;  // passed on as they are: "--container=/images/cadre"
};

// `launcher`: the command that the job runs. Words are quoted for the shell; values of directives that hold anything but
// letters, digits and _.:,/+=@%- are refused with Error(kUsage), since Slurm would cut them at a space.
std::string batch_script(const SlurmOptions& options, const std::vector<std::string>& launcher);

extern const char* const kJobTemplate;

}  // namespace cadre::launch
