// Three processes: this one, a keeper that it forks, and the program that the keeper forks. The keeper leads the process
// group and waits for the program; it is what makes the end of the program visible when descendants keep the pipes
// open. In a process namespace the program is process 1, so that its end is the end of all that it started, also of
// what left the group. Between fork and exec only system calls are made: this process has threads.
#include "data/rewards/sandbox.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

using Clock = std::chrono::steady_clock;

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { reset(); }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

struct Pipe {
  Fd read, write;
  bool open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read = Fd(ends[0]);
    write = Fd(ends[1]);
    return true;
  }
};

// What the keeper reports.
struct Report {
  enum Kind : int { kNamespace, kExec, kEnd } kind;
  int value;  // errno, errno, wait status
};

void limit(int resource, rlim_t value) {
  const rlimit both = {value, value};
  setrlimit(resource, &both);
}

void close_from(unsigned first, int keep) {
  if (keep > int(first)) syscall(SYS_close_range, first, unsigned(keep - 1), 0);
  syscall(SYS_close_range, std::max(first, unsigned(keep + 1)), ~0u, 0);
}

constexpr int kNamespaces = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWIPC;

struct Plan {
  const char* program;
  char* const* argv;
  char* const* environment;
  const SandboxConfig* config;
  int namespaces;
  int input, output, status;
};

[[noreturn]] void send(const Plan& plan, Report report) {
  [[maybe_unused]] const ssize_t n = write(plan.status, &report, sizeof(report));
  _exit(0);
}

[[noreturn]] void become_program(const Plan& plan) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int signal : {SIGPIPE, SIGTERM, SIGINT, SIGUSR1}) ::signal(signal, SIG_DFL);
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(plan.config->timeout).count();
  limit(RLIMIT_CPU, rlim_t(seconds) + 1);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_AS, rlim_t(plan.config->memory_bytes));
  execve(plan.program, plan.argv, plan.environment);
  send(plan, {Report::kExec, errno});  // its end of the pipe closes on exec only
}

[[noreturn]] void become_keeper(const Plan& plan) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(plan.input, STDIN_FILENO);
  dup2(plan.output, STDOUT_FILENO);
  const int nowhere = open("/dev/null", O_WRONLY);
  dup2(nowhere, STDERR_FILENO);
  close_from(3, plan.status);
  if (plan.namespaces != 0 && unshare(plan.namespaces) != 0) send(plan, {Report::kNamespace, errno});
  const pid_t program = _Fork();
  if (program < 0) send(plan, {Report::kExec, errno});
  if (program == 0) become_program(plan);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) close(fd);
  int status = 0;
  while (waitpid(program, &status, 0) < 0 && errno == EINTR) {
  }
  send(plan, {Report::kEnd, status});
}

// Whether this kernel and user may make the namespaces.
bool allowed(int namespaces) {
  const pid_t child = _Fork();
  if (child == 0) _exit(unshare(namespaces) == 0 ? 0 : 1);
  int status = 1;
  if (child < 0) return false;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = std::getenv("PATH");
  std::string rest = path != nullptr ? path : "/usr/bin:/bin";
  while (!rest.empty()) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    const std::string file = rest.substr(0, colon) + "/" + name;
    if (access(file.c_str(), X_OK) == 0) return file;
    rest.erase(0, colon + 1);
  }
  return "";
}

std::string describe_end(const Report& report, std::chrono::milliseconds timeout) {
  if (report.kind == Report::kNamespace)
    return fmt::format("the kernel refused its namespaces: {}", std::strerror(report.value));
  if (report.kind == Report::kExec)
    return fmt::format("could not be started: {}", std::strerror(report.value));
  if (WIFEXITED(report.value)) {
    const int code = WEXITSTATUS(report.value);
    return code == 0 ? "" : fmt::format("ended with exit code {}", code);
  }
  const int signal = WTERMSIG(report.value);
  if (signal == SIGXCPU) return fmt::format("used more CPU time than {} ms", timeout.count());
  return fmt::format("was killed by signal {}", signal);
}

// The parent's side of one run: feeds input, takes output and the report, until the report, too much output or the
// deadline.
class Exchange {
 public:
  Exchange(const SandboxConfig& config, const std::string& input, Fd to, Fd from, Fd status)
      : config_(config),
        input_(input),
        to_(std::move(to)),
        from_(std::move(from)),
        status_(std::move(status)) {
    for (const Fd* fd : {&to_, &from_}) fcntl(fd->get(), F_SETFL, O_NONBLOCK);
  }

  SandboxResult result() {
    const Clock::time_point deadline = Clock::now() + config_.timeout;
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0) return {{}, fmt::format("took more than {} ms", config_.timeout.count())};
      std::array<pollfd, 3> ends = {
          pollfd{to_.get(), POLLOUT, 0}, {from_.get(), POLLIN, 0}, {status_.get(), POLLIN, 0}};
      if (poll(ends.data(), ends.size(), int(left)) < 0 && errno != EINTR)
        return {{}, fmt::format("could not be waited for: {}", std::strerror(errno))};
      if (ends[0].revents != 0) feed();
      if (ends[1].revents != 0) drain();
      if (int64_t(output_.size()) > config_.output_bytes)
        return {{}, fmt::format("printed more than {} bytes", config_.output_bytes)};
      if (ends[2].revents != 0) return finish();
    }
  }

 private:
  void feed() {
    const ssize_t n = write(to_.get(), input_.data() + sent_, input_.size() - sent_);
    if (n > 0) sent_ += size_t(n);
    // A program need not read its input.
    if (sent_ == input_.size() || (n < 0 && errno != EAGAIN && errno != EINTR)) to_.reset();
  }
  void drain() {
    std::array<char, 65536> block;
    const ssize_t n = read(from_.get(), block.data(), block.size());
    if (n > 0) output_.append(block.data(), size_t(n));
    if (n == 0) from_.reset();
  }
  SandboxResult finish() {
    Report report{Report::kExec, ECHILD};
    const bool whole = read(status_.get(), &report, sizeof(report)) == ssize_t(sizeof(report));
    for (size_t before = output_.size() + 1; from_.get() >= 0 && before != output_.size();) {
      before = output_.size();
      drain();
      if (int64_t(output_.size()) > config_.output_bytes)
        return {{}, fmt::format("printed more than {} bytes", config_.output_bytes)};
    }
    if (!whole) return {{}, "was lost: its keeper was killed"};
    return {output_, describe_end(report, config_.timeout)};
  }

  const SandboxConfig& config_;
  const std::string& input_;
  size_t sent_ = 0;
  std::string output_;
  Fd to_, from_, status_;
};

}  // namespace

Sandbox::Sandbox(SandboxConfig config, const std::string& where) : config_(std::move(config)) {
  require(!config_.command.empty(), ExitCode::kUsage, "{}: empty; give the program and its arguments", where);
  program_ = find_program(config_.command[0]);
  require(!program_.empty(), ExitCode::kUsage, "{}: there is no program '{}' that may be run", where,
          config_.command[0]);
  namespaces_ = kNamespaces | (config_.allow_network ? 0 : CLONE_NEWNET);
  const bool possible = allowed(namespaces_);
  require(possible || config_.allow_network, ExitCode::kUsage,
          "{}: this kernel or container refuses user and network namespaces, so the program would have the "
          "network; "
          "set allow_network: true to run it like that",
          where);
  if (!possible) namespaces_ = 0;
}

SandboxResult Sandbox::run(const std::string& input) const {
  Pipe in, out, status;
  if (!in.open() || !out.open() || !status.open())
    return {{}, fmt::format("no pipes: {}", std::strerror(errno))};
  std::vector<char*> argv;
  for (const std::string& word : config_.command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const char* path = std::getenv("PATH");
  std::string path_entry = std::string("PATH=") + (path != nullptr ? path : "/usr/bin:/bin");
  std::string language = "LANG=C.UTF-8", home = "HOME=/";
  char* environment[] = {path_entry.data(), language.data(), home.data(), nullptr};
  const Plan plan{program_.c_str(), argv.data(),   environment,     &config_,
                  namespaces_,      in.read.get(), out.write.get(), status.write.get()};
  // A write to a program that has ended must be an error here, not the end of this process.
  sigset_t pipe_signal, before;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  const pid_t keeper = _Fork();
  if (keeper == 0) become_keeper(plan);
  SandboxResult result{{}, "could not be started: no process"};
  if (keeper > 0) {
    for (Fd* fd : {&in.read, &out.write, &status.write}) fd->reset();
    result =
        Exchange(config_, input, std::move(in.write), std::move(out.read), std::move(status.read)).result();
    kill(-keeper, SIGKILL);
    kill(keeper, SIGKILL);
    int ignored = 0;
    while (waitpid(keeper, &ignored, 0) < 0 && errno == EINTR) {
    }
  }
  const timespec now{};
  while (sigtimedwait(&pipe_signal, nullptr, &now) > 0) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return result;
}

}  // namespace cadre::data
