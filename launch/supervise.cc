#include "launch/supervise.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include "launch/child_strings.h"
#include "parallel/base/errors.h"

namespace cadre::launch {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

// Blocks the signals that the supervisor waits for; restores the mask.
class Supervisor::Signals {
 public:
  Signals() {
    sigemptyset(&waited_);
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD}) sigaddset(&waited_, signal);
    sigprocmask(SIG_BLOCK, &waited_, &before_);
  }
  ~Signals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  const sigset_t& before() const { return before_; }

  // The next signal, or 0 after the timeout.
  int next(std::chrono::milliseconds timeout) const {
    const timespec limit = {timeout.count() / 1000, timeout.count() % 1000 * 1'000'000};
    const int signal = sigtimedwait(&waited_, nullptr, &limit);
    return signal > 0 ? signal : 0;
  }

 private:
  sigset_t waited_, before_;
};

namespace {

// Between fork and exec; only async-signal-safe calls. Writes errno to `report` when exec fails.
[[noreturn]] void become(char* const* argv, char* const* envp, const sigset_t& mask, pid_t parent,
                         int report) {
  setpgid(0, 0);  // Ctrl-C reaches the launcher alone
  // A launcher that dies takes the job with it. mpirun ends its ranks on SIGTERM.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(int(ExitCode::kComm));
  // mpirun forwards its input to rank 0; as a background group it would be stopped for reading the terminal.
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  execvpe(argv[0], argv, envp);
  const int error = errno;
  (void)!write(report, &error, sizeof error);
  _exit(127);
}

pid_t start(const Supervised& job, const sigset_t& mask) {
  std::vector<std::string> command = job.command, added;
  for (const auto& [name, value] : job.environment) added.push_back(name + "=" + value);
  std::vector<std::string> environment = environment_with(added);
  const std::vector<char*> argv = pointers(command), envp = pointers(environment);
  int report[2];
  require(pipe2(report, O_CLOEXEC) == 0, ExitCode::kComm, "cannot make a pipe: {}", std::strerror(errno));
  const pid_t parent = getpid();
  const pid_t pid = fork();
  require(pid >= 0, ExitCode::kComm, "cannot start a process: {}", std::strerror(errno));
  if (pid == 0) become(argv.data(), envp.data(), mask, parent, report[1]);
  setpgid(pid, pid);  // whoever comes first
  close(report[1]);
  int error = 0;
  const bool failed = read(report[0], &error, sizeof error) == ssize_t(sizeof error);
  close(report[0]);
  if (failed) {
    waitpid(pid, nullptr, 0);
    fail(ExitCode::kUsage, "cannot start {}: {}", job.command[0], std::strerror(error));
  }
  return pid;
}

std::vector<pid_t> children() {
  std::ifstream list("/proc/self/task/" + std::to_string(getpid()) + "/children");
  std::vector<pid_t> pids;
  for (pid_t pid; list >> pid;) pids.push_back(pid);
  return pids;
}

// Processes whose parents died have become our children (subreaper): ranks of a killed mpirun. Kills what is
// left of them after a moment.
void reap_orphans() {
  constexpr auto kMoment = std::chrono::milliseconds(500);
  constexpr auto kEnough = std::chrono::seconds(5);  // what even SIGKILL does not end hangs in the kernel
  const auto deadline = Clock::now() + kMoment;
  pid_t pid = 0;
  while ((pid = waitpid(-1, nullptr, WNOHANG)) >= 0 || errno == EINTR) {
    if (pid > 0) continue;
    if (Clock::now() > deadline + kEnough) return;
    if (Clock::now() > deadline) {
      for (pid_t child : children()) kill(child, SIGKILL);
    }
    usleep(5000);
  }
}

// The state of stopping: asked, told to end, killed.
class Stopper {
 public:
  Stopper(pid_t pid, const Supervised& job) : pid_(pid), job_(job) {}

  bool asked() const { return asked_; }
  void on_signal(int signal) {
    asked_ = asked_ || (signal != SIGUSR2 && signal != SIGCHLD);
    if (signal == SIGUSR1 || signal == SIGUSR2) {
      kill(pid_, signal);
    } else if (signal == SIGTERM || signal == SIGINT || signal == SIGHUP) {
      stage_ == kRunning ? ask() : end();
    }
  }
  // The ranks hang: there is nothing to wait for.
  void on_watch(const std::string& reason) {
    if (stage_ == kEnding) return;
    fmt::print(stderr, "cadre launch: {}; ending the ranks\n", reason);
    stage_ = kRunning;
    end();
  }
  void on_time() {
    if (Clock::now() < deadline_) return;
    stage_ == kAsked ? end() : destroy();
  }
  std::chrono::milliseconds time_left() const {
    constexpr std::chrono::milliseconds kLong = std::chrono::hours(1);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now());
    return std::clamp(left, std::chrono::milliseconds(0), kLong);
  }

 private:
  enum Stage { kRunning, kAsked, kEnding };

  void ask() {
    fmt::print(stderr, "cadre launch: stopping after this step, with a checkpoint; again to stop at once\n");
    stage_ = kAsked;
    deadline_ = Clock::now() + job_.grace;
    kill(pid_, SIGUSR1);
  }
  void end() {
    if (stage_ == kAsked) fmt::print(stderr, "cadre launch: ending the ranks now\n");
    if (stage_ != kEnding) deadline_ = Clock::now() + job_.kill_after;
    stage_ = kEnding;
    kill(-pid_, SIGTERM);
  }
  void destroy() {
    kill(-pid_, SIGKILL);
    deadline_ = Clock::time_point::max();
  }

  const pid_t pid_;
  const Supervised& job_;
  Stage stage_ = kRunning;
  bool asked_ = false;
  Clock::time_point deadline_ = Clock::time_point::max();
};

}  // namespace

Supervisor::Supervisor() : signals_(std::make_unique<Signals>()) {}
Supervisor::~Supervisor() = default;

Ended Supervisor::run(const Supervised& job) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const pid_t pid = start(job, signals_->before());
  Stopper stopper(pid, job);
  Ended ended;
  Clock::time_point next_look = Clock::now() + job.watch_every;
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) != pid) {
    const auto to_look = std::chrono::ceil<std::chrono::milliseconds>(next_look - Clock::now());
    const auto wait = job.watch
                          ? std::min(stopper.time_left(), std::max(to_look, std::chrono::milliseconds(0)))
                          : stopper.time_left();
    const int signal = signals_->next(wait);
    if (signal != 0) stopper.on_signal(signal);
    stopper.on_time();
    if (!job.watch || !ended.reason.empty() || Clock::now() < next_look) continue;
    next_look = Clock::now() + job.watch_every;
    ended.reason = job.watch();
    if (!ended.reason.empty()) stopper.on_watch(ended.reason);
  }
  reap_orphans();
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ended.asked = stopper.asked();
  return ended;
}

bool Supervisor::pause(std::chrono::milliseconds time) {
  const Clock::time_point end = Clock::now() + time;
  for (auto left = time; left.count() > 0;
       left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now())) {
    const int signal = signals_->next(left);
    if (signal != 0 && signal != SIGCHLD && signal != SIGUSR2) return false;
  }
  return true;
}

}  // namespace cadre::launch
