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

// What `sinfo` says about the CPUs of a partition's nodes (all partitions when empty): a number a line, "N+" where they differ.
// Empty when Slurm does not answer.
std::string node_cpus(const std::string& partition);
// How many of them each of so many ranks of a node can have; 0 when that is not known.
int cores_of_rank(const std::string& node_cpus, int ranks_of_node);

extern const char* const kJobTemplate;

}  // namespace cadre::launch
