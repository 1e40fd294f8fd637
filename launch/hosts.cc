#include "launch/hosts.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <thread>

#include "parallel/base/files.h"

extern char** environ;

namespace cadre::launch {
namespace {

bool is_host_name(const std::string& name) {
  const auto allowed = [](char c) {
    return std::isalnum(uint8_t(c)) != 0 || c == '.' || c == '-' || c == '_';
  };
  return !name.empty() && name[0] != '-' && std::all_of(name.begin(), name.end(), allowed);
}

// A positive number below a million, or 0.
int small_number(const std::string& text) {
  const bool digits =
      !text.empty() && text.size() < 7 && text.find_first_not_of("0123456789") == std::string::npos;
  return digits ? std::stoi(text) : 0;
}

bool is_this_host(const std::string& name) {
  char own[256] = "";
  (void)gethostname(own, sizeof own - 1);
  return name == "localhost" || name == "127.0.0.1" || name == own;
}

pid_t ask(const std::string& name) {
  std::vector<std::string> words = {"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", name, "true"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  if (posix_spawnp(&pid, "ssh", &quiet, nullptr, argv.data(), environ) != 0) pid = -1;
  posix_spawn_file_actions_destroy(&quiet);
  return pid;
}

// Whether the process ended with 0 by then; after that it is killed. ConnectTimeout does not limit a login that hangs.
bool ended_well(pid_t pid, std::chrono::steady_clock::time_point until) {
  constexpr std::chrono::milliseconds kLook(20);
  int status = 1;
  pid_t ended = waitpid(pid, &status, WNOHANG);
  while (ended == 0 && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(kLook);
    ended = waitpid(pid, &status, WNOHANG);
  }
  if (ended == 0) {
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return false;
  }
  return ended == pid && status == 0;
}

}  // namespace

std::vector<Host> read_hosts(const std::filesystem::path& file) {
  std::istringstream lines(base::read_file(file, ExitCode::kUsage, 1 << 20));
  std::vector<Host> hosts;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::istringstream words(line.substr(0, line.find('#')));
    Host host;
    if (!(words >> host.name)) continue;
    std::string slots, more;
    if (words >> slots) host.slots = slots.starts_with("slots=") ? small_number(slots.substr(6)) : 0;
    require(is_host_name(host.name) && host.slots > 0 && !(words >> more), ExitCode::kUsage,
            "{}:{}: found '{}', expected 'NAME' or 'NAME slots=N'", file.string(), number, line);
    hosts.push_back(std::move(host));
  }
  require(!hosts.empty(), ExitCode::kUsage, "{}: no hosts in it", file.string());
  return hosts;
}

int total_slots(const std::vector<Host>& hosts) {
  int slots = 0;
  for (const Host& host : hosts) slots += host.slots;
  return slots;
}

std::vector<Host> reachable(const std::vector<Host>& hosts, std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  std::vector<pid_t> asked;
  for (const Host& host : hosts) asked.push_back(is_this_host(host.name) ? 0 : ask(host.name));
  std::vector<Host> there;
  for (size_t i = 0; i < hosts.size(); ++i) {
    const bool answers = asked[i] == 0 || (asked[i] > 0 && ended_well(asked[i], until));
    if (answers) there.push_back(hosts[i]);
  }
  return there;
}

Elastic read_elastic(const std::string& text) {
  const size_t colon = text.find(':');
  Elastic elastic;
  if (colon != std::string::npos)
    elastic = {small_number(text.substr(0, colon)), small_number(text.substr(colon + 1))};
  require(elastic.min > 0 && elastic.max >= elastic.min, ExitCode::kUsage,
          "--elastic is '{}', expected MIN:MAX ranks such as 2:8", text);
  return elastic;
}

int elastic_ranks(const Elastic& elastic, int slots, int multiple) {
  const int most = std::min(elastic.max, slots) / multiple * multiple;
  return most >= elastic.min ? most : 0;
}

}  // namespace cadre::launch
