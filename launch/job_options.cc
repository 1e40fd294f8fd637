#include "launch/job_options.h"

#include <sys/prctl.h>

#include <csignal>
#include <cstdlib>

#include "launch/gpus.h"
#include "launch/run_folder.h"
#include "launch/side_by_side.h"
#include "parallel/base/errors.h"
#include "trainer/run/cores.h"

namespace cadre::launch {

void add_job_options(CLI::App* verb, JobOptions& options) {
  verb->add_option("--jobs", options.jobs,
                   "Processes on this machine that share the work, its cores and its GPUs")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  verb->add_option("--job", options.job)->group("");  // given by --jobs
}

void join_jobs(const JobOptions& options) {
  if (!options.is_one_of_several()) return;
  const size_t slash = options.job.find('/');
  require(slash != std::string::npos, ExitCode::kUsage, "--job {}: expected I/N; it is given by --jobs",
          options.job);
  trainer::share_cores(std::atoi(options.job.c_str() + slash + 1));
  prctl(PR_SET_PDEATHSIG, SIGTERM);
}

base::Section section_of_verb(base::Section& root, const std::string& verb) {
  std::string has;
  for (const char* name : {"study", "swarm", "audit"}) {
    if (!root.has(name)) continue;
    root.section(name);
    has += fmt::format("; it has `{0}`, for `cadre {0}`", name);
  }
  require(root.has(verb), ExitCode::kUsage, "{}: no section `{}`, which `cadre {}` reads{}", root.source(),
          verb, verb, has);
  return root.section(verb);
}

int run_jobs(const JobOptions& options, const std::vector<std::string>& arguments) {
  require(
      !started_by_launcher() && std::getenv("CADRE_MASTER") == nullptr, ExitCode::kUsage,
      "--jobs {} starts processes of its own on this machine, each of one rank: leave out mpirun, srun and "
      "CADRE_MASTER, or leave out --jobs",
      options.jobs);
  SideBySide side_by_side{.command = {"/proc/self/exe"}, .count = options.jobs};
  side_by_side.command.insert(side_by_side.command.end(), arguments.begin(), arguments.end());
  side_by_side.environment = one_gpu_each(name_gpus(std::getenv("CUDA_VISIBLE_DEVICES")), options.jobs);
  return common_code(run_side_by_side(side_by_side));
}

}  // namespace cadre::launch
