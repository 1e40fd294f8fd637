// `cadre launch`: starts the ranks of a run, on this host, on a list of hosts or inside a Slurm job, and stands by them
// until they end; or, with --slurm, hands the run to Slurm.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>

#include "launch/gpus.h"
#include "launch/hosts.h"
#include "launch/monitor.h"
#include "launch/mpirun.h"
#include "launch/option_checks.h"
#include "launch/restarts.h"
#include "launch/slurm.h"
#include "launch/supervise.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "parallel/device/accelerator.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/run_config.h"

namespace cadre::launch {
namespace {

namespace fs = std::filesystem;

struct LaunchOptions {
  int num_ranks = 0;  // 0: the host list's or the Slurm job's
  int grace_seconds = 60;
  double backoff_seconds = 5;
  std::string run_file, hosts, elastic, starter = "mpirun";
  std::vector<std::string> overrides;
  WatchOptions watch;
  RestartOptions restarts;
  bool slurm = false, dry_run = false;
  SlurmOptions job;
};

int slurm_tasks() {
  const char* tasks = std::getenv("SLURM_JOB_ID") != nullptr ? std::getenv("SLURM_NTASKS") : nullptr;
  return tasks != nullptr ? std::atoi(tasks) : 0;
}

// `device: auto` takes GPUs when each rank of a host can have one; only this host's can be counted.
void choose_gpus(StartOptions& start, const trainer::RunConfig& config) {
  start.gpus = count_gpus(std::getenv("CUDA_VISIBLE_DEVICES"));
  const bool elsewhere = !start.hosts.empty() || start.starter == Starter::kSrun || slurm_tasks() > 0;
  const bool enough = start.gpus > 0 && (elsewhere || start.ranks <= start.gpus);
  start.on_gpus =
      config.device == "cuda" || (config.device == "auto" && enough && !device::accelerators().empty());
  require(!start.on_gpus || enough || elsewhere || start.gpus == 0, ExitCode::kUsage,
          "found {} GPUs for {} ranks with device: cuda; start one rank for each GPU (-n {})", start.gpus,
          start.ranks, start.gpus);
}

// Who runs where; chosen again before each start.
StartOptions choose_places(const LaunchOptions& options, const trainer::RunConfig& config, bool again) {
  StartOptions start{.starter = options.starter == "srun" ? Starter::kSrun : Starter::kMpirun,
                     .ranks = options.num_ranks,
                     .cores = physical_cores(),
                     .hosts = {},
                     .on_gpus = false,
                     .gpus = 0};
  int slots = slurm_tasks();
  if (!options.hosts.empty()) {
    start.hosts = read_hosts(options.hosts);
    if (again || !options.elastic.empty()) start.hosts = reachable(start.hosts);
    slots = total_slots(start.hosts);
  }
  if (start.ranks == 0) start.ranks = slots;
  if (!options.elastic.empty()) {
    if (slots == 0) slots = start.cores;
    const comm::MeshConfig& mesh = config.mesh;
    start.ranks = elastic_ranks(read_elastic(options.elastic), slots, std::lcm(mesh.ep, mesh.cp));
    require(start.ranks > 0, ExitCode::kComm,
            "{} slots are left, too few for --elastic {} with mesh.ep {} and mesh.cp {}", slots,
            options.elastic, mesh.ep, mesh.cp);
  }
  require(start.ranks > 0, ExitCode::kUsage,
          "how many ranks? Give -n, or --hosts, or start inside a Slurm job");
  choose_gpus(start, config);
  return start;
}

std::vector<std::string> rank_command(const LaunchOptions& options) {
  std::vector<std::string> rank = {fs::read_symlink("/proc/self/exe"), "train", options.run_file};
  rank.insert(rank.end(), options.overrides.begin(), options.overrides.end());
  // Ranks under mpirun cannot see what their output ends in.
  if (isatty(STDOUT_FILENO) == 1) rank.push_back("--progress=line");
  return rank;
}

void tell(const std::string& line) {
  fmt::print(stderr, "cadre launch: {}\n", line);
}

// What the ranks did last: the short form for the terminal, all of it in a file of the run folder.
void explain(const fs::path& out, int start_number) {
  const auto boxes = read_boxes(out / "ranks");
  if (boxes.empty()) return;
  const fs::path file = out / fmt::format("post-mortem-{}.txt", start_number);
  fmt::print(stderr, "{}", post_mortem(boxes, false));
  try {
    base::write_file_atomic(file, post_mortem(boxes, true), ExitCode::kCheckpoint);
    tell(fmt::format("the last collectives of each rank are in {}", file.string()));
  } catch (const Error& error) {
    tell(error.what());
  }
}

// Boxes of an earlier start would pass for ranks that stand still.
void remove_boxes(const fs::path& out) {
  std::error_code ignored;
  fs::remove_all(out / "ranks", ignored);
}

// srun says 0 too when a node refused to start the ranks; then none of them left a box.
int exit_code(const StartOptions& start, const trainer::RunConfig& config, const Ended& ended) {
  if (!ended.reason.empty()) return int(ExitCode::kComm);
  if (ended.code != 0 || start.starter != Starter::kSrun) return ended.code;
  if (!read_boxes(fs::path(config.out) / "ranks").empty()) return ended.code;
  tell("srun ended with 0, but no rank was ever there");
  return int(ExitCode::kComm);
}

int run_job(const LaunchOptions& options, const trainer::RunConfig& config) {
  Supervisor supervisor;
  Restarts restarts(options.restarts);
  for (;;) {
    const StartOptions start = choose_places(options, config, restarts.count() > 0);
    Monitor monitor(fs::path(config.out) / "ranks", options.watch, tell);
    Supervised job;
    job.command = start_command(start, rank_command(options));
    job.environment = rank_environment(geteuid() == 0);
    job.grace = std::chrono::seconds(options.grace_seconds);
    job.watch = [&] { return monitor.look(); };
    fmt::print("{}\n{}\n", describe_places(start, config.threads), shell_line(job.command));
    std::fflush(stdout);  // before the ranks' own lines
    if (options.dry_run) return int(ExitCode::kOk);
    remove_boxes(config.out);
    const Ended ended = supervisor.run(job);
    const int code = exit_code(start, config, ended);
    if (code == int(ExitCode::kOk) || code == int(ExitCode::kStopped) || code == int(ExitCode::kUsage))
      return code;
    (void)monitor.look();  // where it ended
    tell(fmt::format("the ranks ended with code {}", code));
    explain(config.out, restarts.count());
    if (ended.asked) return code;
    const auto pause = restarts.after(code, monitor.step());
    if (!restarts.why_not().empty()) tell(restarts.why_not());
    if (!pause) return code;
    tell(fmt::format("restart {} of at most {} in {:.1f} s, from the newest whole checkpoint",
                     restarts.count(), options.restarts.limit, double(pause->count()) * 1e-3));
    if (!supervisor.pause(*pause)) return int(ExitCode::kStopped);
  }
}

// The options that the launcher inside the job needs again.
int submit(const LaunchOptions& options, const trainer::RunConfig& config) {
  require(options.num_ranks > 0, ExitCode::kUsage, "--slurm needs -n, the number of ranks");
  SlurmOptions job = options.job;
  job.ranks = options.num_ranks;
  const int ranks_of_node = std::max(1, job.ranks / job.nodes);
  if (config.device == "cuda" && job.gpus_per_node == 0) job.gpus_per_node = ranks_of_node;
  if (job.cores_per_rank == 0) job.cores_per_rank = cores_of_rank(node_cpus(job.partition), ranks_of_node);
  tell(fmt::format("ranks a node: {}, cores a rank: {}, GPUs a node: {}", ranks_of_node,
                   job.cores_per_rank > 0 ? std::to_string(job.cores_per_rank) : "as the site has it",
                   job.gpus_per_node));
  const fs::path out = fs::absolute(config.out);
  if (job.output.empty()) job.output = (out / "slurm-%j.log").string();
  std::vector<std::string> launcher = {fs::read_symlink("/proc/self/exe"),
                                       "launch",
                                       "--starter",
                                       options.starter,
                                       "--restarts",
                                       std::to_string(options.restarts.limit),
                                       "--backoff",
                                       fmt::format("{}", options.backoff_seconds),
                                       "--hang",
                                       fmt::format("{}", options.watch.hang_seconds),
                                       "--straggler-factor",
                                       fmt::format("{}", options.watch.straggler_factor),
                                       "--straggler-steps",
                                       std::to_string(options.watch.straggler_steps),
                                       "--grace",
                                       std::to_string(options.grace_seconds),
                                       fs::absolute(options.run_file)};
  if (!options.elastic.empty()) launcher.insert(launcher.end() - 1, {"--elastic", options.elastic});
  launcher.insert(launcher.end(), options.overrides.begin(), options.overrides.end());
  const std::string script = batch_script(job, launcher);
  if (options.dry_run) {
    fmt::print("{}", script);
    return int(ExitCode::kOk);
  }
  std::error_code code;
  fs::create_directories(out, code);
  fs::permissions(out, fs::perms::owner_all, code);
  require(!code, ExitCode::kUsage, "cannot create the run folder {}: {}", out.string(), code.message());
  const std::string file = out / "job.sbatch";
  base::write_file_atomic(file, script, ExitCode::kUsage);
  execlp("sbatch", "sbatch", "--parsable", file.c_str(), nullptr);
  fail(ExitCode::kUsage, "cannot start sbatch: {}; the script is {}", std::strerror(errno), file);
}

int launch(LaunchOptions options) {
  options.restarts.backoff = std::chrono::milliseconds(int64_t(options.backoff_seconds * 1000));
  // A mistake in the run file is reported once, before any rank starts.
  const trainer::RunConfig config = trainer::load_run(options.run_file, options.overrides);
  return options.slurm ? submit(options, config) : run_job(options, config);
}

void add_watch_options(CLI::App* verb, LaunchOptions& o) {
  verb->add_option("--grace", o.grace_seconds, "Seconds from a request to stop until the ranks are killed")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  verb->add_option("--restarts", o.restarts.limit, "Restarts after failures; 0: none")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  verb->add_option("--backoff", o.backoff_seconds,
                   "Seconds before the first restart; doubles without progress")
      ->check(between(0.0, 86400.0))
      ->capture_default_str();
  verb->add_option("--hang", o.watch.hang_seconds,
                   "Seconds without any movement that count as a hang; 0: never")
      ->check(between(0.0, 1e6))
      ->capture_default_str();
  verb->add_option("--straggler-factor", o.watch.straggler_factor,
                   "A rank slower than the median by this is named")
      ->check(between(1.0, 1000.0))
      ->capture_default_str();
  verb->add_option("--straggler-steps", o.watch.straggler_steps, "... after so many steps")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
}

void add_slurm_options(CLI::App* verb, LaunchOptions& o) {
  verb->add_flag("--slurm", o.slurm, "Hand the run to Slurm: writes <out>/job.sbatch and submits it");
  verb->add_option("--nodes", o.job.nodes, "Nodes of the job")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  verb->add_option("--partition", o.job.partition, "Partition");
  verb->add_option("--account", o.job.account, "Account");
  verb->add_option("--time", o.job.time, "Time limit, as sbatch takes it");
  verb->add_option("--job-name", o.job.name, "Name")->capture_default_str();
  verb->add_option("--cores", o.job.cores_per_rank, "Cores a rank; else as many as the nodes have")
      ->check(CLI::Range(1, 4096));
  verb->add_option("--gpus-per-node", o.job.gpus_per_node, "GPUs of a node")->check(CLI::Range(1, 64));
  verb->add_option("--notice", o.job.notice_seconds,
                   "Seconds before the time limit at which the run checkpoints")
      ->check(CLI::Range(10, 86400))
      ->capture_default_str();
  verb->add_option("--sbatch-flag", o.job.sbatch_flags,
                   "A flag to pass on, such as --sbatch-flag=--container=/image (repeatable)")
      ->allow_extra_args(false);
}

}  // namespace

void add_launch(CLI::App& app, Run& run) {
  const auto options = std::make_shared<LaunchOptions>();
  CLI::App* verb = app.add_subcommand("launch", "Start and supervise the ranks of a run");
  verb->add_option("-n", options->num_ranks,
                   "Number of ranks (default: as many as --hosts or the Slurm job have slots)")
      ->check(CLI::Range(1, 4096));
  verb->add_option("run", options->run_file, "The run file")->required();
  verb->add_option("overrides", options->overrides, "key.sub=value ...");
  verb->add_option("--hosts", options->hosts, "Host file: lines of NAME slots=N");
  verb->add_option("--elastic", options->elastic,
                   "MIN:MAX ranks: as many as the reachable hosts hold, again at each restart");
  verb->add_option("--starter", options->starter, "mpirun, or srun inside a Slurm job")
      ->check(CLI::IsMember({"mpirun", "srun"}))
      ->capture_default_str();
  verb->add_flag("--dry-run", options->dry_run, "Print the command, or the batch script, and end");
  add_watch_options(verb, *options);
  add_slurm_options(verb, *options);
  verb->callback([options, &run] { run = [options] { return launch(*options); }; });
}

}  // namespace cadre::launch
