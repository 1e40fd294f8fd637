#include "launch/side_by_side.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "launch/child_strings.h"
#include "parallel/base/errors.h"

namespace cadre::launch {
namespace {

int signal_pipe[2] = {-1, -1};

extern "C" void on_signal_write(int signal) {
  const int before = errno;
  const char number = char(signal);
  (void)!write(signal_pipe[1], &number, 1);
  errno = before;
}

// Signals arrive through a file as long as it lives. Handlers, and not a mask with signalfd: libraries may have threads that
// were made before main(), and a signal that one thread does not hold back ends the process, or is lost. One at a time.
class SignalFile {
 public:
  SignalFile() {
    require(pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) == 0, ExitCode::kComm, "cannot make a pipe: {}",
            std::strerror(errno));
    struct sigaction action {};
    action.sa_handler = on_signal_write;
    action.sa_flags = SA_RESTART;
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before_[i]);
  }
  ~SignalFile() {
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
    for (int& end : signal_pipe) close(end), end = -1;
  }
  SignalFile(const SignalFile&) = delete;
  SignalFile& operator=(const SignalFile&) = delete;
  int fd() const { return signal_pipe[0]; }
  int next() const {  // 0: none
    char number = 0;
    return read(signal_pipe[0], &number, 1) == 1 ? number : 0;
  }

 private:
  static constexpr std::array<int, 5> kSignals = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD};
  std::array<struct sigaction, kSignals.size()> before_{};
};

struct Job {
  pid_t pid = 0;
  int output = -1;   // closed: -1
  std::string line;  // begun
  int code = -1;     // running: -1
};

// In a process group of its own, so that Ctrl-C reaches the parent alone.
Job start(const SideBySide& jobs, int index) {
  std::vector<std::string> command = jobs.command;
  command.insert(command.end(), {"--job", fmt::format("{}/{}", index + 1, jobs.count)});
  std::vector<std::string> environment = environment_with(
      jobs.environment.empty() ? std::vector<std::string>() : jobs.environment[size_t(index)]);
  int ends[2];
  require(pipe2(ends, O_CLOEXEC) == 0, ExitCode::kComm, "cannot make a pipe: {}", std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  Job job;
  const int error = posix_spawn(&job.pid, command[0].c_str(), &actions, &attributes, pointers(command).data(),
                                pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(ends[1]);
  if (error != 0) close(ends[0]);
  require(error == 0, ExitCode::kUsage, "cannot start {}: {}", command[0], std::strerror(error));
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  job.output = ends[0];
  return job;
}

void print(int index, const std::string& line) {
  fmt::print("[job {}] {}\n", index + 1, line);
  std::fflush(stdout);
}

// Passes on what is there to read.
void read_output(Job& job, int index) {
  std::array<char, 4096> buffer;
  while (job.output >= 0) {
    const ssize_t count = read(job.output, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      close(job.output);
      job.output = -1;
      return;
    }
    job.line.append(buffer.data(), size_t(count));
    size_t end;
    while ((end = job.line.find('\n')) != std::string::npos) {
      print(index, job.line.substr(0, end));
      job.line.erase(0, end + 1);
    }
  }
}

class Group {
 public:
  explicit Group(const SideBySide& jobs) {
    try {
      for (int i = 0; i < jobs.count; ++i) jobs_.push_back(start(jobs, i));
    } catch (...) {
      pass_on(SIGTERM);
      wait();
      throw;
    }
  }
  ~Group() {
    for (const Job& job : jobs_) {
      if (job.output >= 0) close(job.output);
    }
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  std::vector<int> wait() {
    while (std::any_of(jobs_.begin(), jobs_.end(), [](const Job& j) { return j.code < 0; })) {
      look();
      for (size_t i = 0; i < jobs_.size(); ++i) read_output(jobs_[i], int(i));
      while (const int signal = signals_.next()) on_signal(signal);
      reap();
    }
    std::vector<int> codes;
    for (size_t i = 0; i < jobs_.size(); ++i) {
      read_output(jobs_[i], int(i));  // not to its end: what a job started may still hold the pipe
      if (!jobs_[i].line.empty()) print(int(i), jobs_[i].line);
      codes.push_back(jobs_[i].code);
    }
    return codes;
  }

 private:
  void look() {
    std::vector<pollfd> files = {{signals_.fd(), POLLIN, 0}};
    for (const Job& job : jobs_) files.push_back({job.output, POLLIN, 0});  // of -1 nothing is asked
    poll(files.data(), nfds_t(files.size()), -1);
  }
  void on_signal(int signal) {
    if (signal == SIGCHLD) return;
    if (signal == SIGUSR1) return pass_on(signal);
    // Jobs take what comes within two seconds for one request (trainer/run/stop.cc).
    if (!asked_)
      fmt::print(stderr, "cadre: stopping all jobs after a step, with checkpoints; again to stop at once\n");
    asked_ = true;
    pass_on(SIGTERM);
  }
  void pass_on(int signal) {
    for (const Job& job : jobs_) {
      if (job.code < 0) kill(job.pid, signal);
    }
  }
  void reap() {
    for (size_t i = 0; i < jobs_.size(); ++i) {
      int status = 0;
      if (jobs_[i].code >= 0 || waitpid(jobs_[i].pid, &status, WNOHANG) != jobs_[i].pid) continue;
      jobs_[i].code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      if (WIFSIGNALED(status))
        fmt::print(stderr, "cadre: job {} was ended by signal {}; the others go on with its work\n", i + 1,
                   WTERMSIG(status));
    }
  }

  SignalFile signals_;
  std::vector<Job> jobs_;
  bool asked_ = false;
};

}  // namespace

std::vector<int> run_side_by_side(const SideBySide& jobs) {
  std::fflush(stdout);
  return Group(jobs).wait();
}

int common_code(const std::vector<int>& codes) {
  const auto first = [&](const auto& is_it) { return std::find_if(codes.begin(), codes.end(), is_it); };
  if (first([](int c) { return c == int(ExitCode::kOk); }) != codes.end()) return int(ExitCode::kOk);
  const auto failed = first([](int c) { return c != int(ExitCode::kStopped) && c < 128; });
  if (failed != codes.end()) return *failed;
  const auto stopped = first([](int c) { return c == int(ExitCode::kStopped); });
  return stopped != codes.end() ? *stopped : codes.front();
}

std::vector<std::vector<std::string>> one_gpu_each(const std::vector<std::string>& gpus, int count) {
  std::vector<std::vector<std::string>> environment;
  if (gpus.size() < 2) return environment;
  for (int i = 0; i < count; ++i)
    environment.push_back({"CUDA_VISIBLE_DEVICES=" + gpus[size_t(i) % gpus.size()]});
  return environment;
}

}  // namespace cadre::launch
