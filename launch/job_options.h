// What study, swarm and audit have in common: their section of a study file, and `--jobs N`, whose processes share a folder.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "parallel/base/config.h"

namespace cadre::launch {

struct JobOptions {
  int jobs = 1;
  std::string job;  // "2/4": the second of four that --jobs 4 started
  bool is_one_of_several() const { return !job.empty(); }
};
void add_job_options(CLI::App* verb, JobOptions& options);

// The section of a study file that `verb` reads, its own name; those of the other verbs are theirs to read. Throws Error(kUsage)
// for a file that has none of its own.
base::Section section_of_verb(base::Section& root, const std::string& verb);

// Starts that many processes of this program with these arguments and returns their common exit code. Throws Error(kUsage)
// under mpirun and srun.
int run_jobs(const JobOptions& options, const std::vector<std::string>& arguments);
// As one of several, this process takes its share of the cores and ends with the process that started it.
void join_jobs(const JobOptions& options);

}  // namespace cadre::launch
