// Runs one program on one input, isolated: its own session and process group, no network and no sight of other processes
// (namespaces of a new user namespace, where the kernel allows them), a bare environment, limits on time, memory and
// output. Its process group is killed when run() returns; where the kernel allows process namespaces, so is what left
// the group. Files are not protected: it runs as the user who trains.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace cadre::data {

struct SandboxConfig {
  std::vector<std::string> command;  // the program, with a path or found in PATH, and its arguments
  std::chrono::milliseconds timeout{10'000};
  int64_t memory_bytes = int64_t(512) << 20;  // address space of each process
  int64_t output_bytes = int64_t(1) << 20;    // of standard output; more is a failure
  bool allow_network = false;
};

struct SandboxResult {
  std::string output;   // standard output
  std::string failure;  // one line; empty when the program ended by itself with 0
};

class Sandbox {
 public:
  // Throws Error(kUsage), naming `where`, for a program that is not there, or when the kernel refuses a network
  // namespace and allow_network is false.
  Sandbox(SandboxConfig config, const std::string& where);
  // Thread-safe. The input goes to standard input; standard error is dropped.
  SandboxResult run(const std::string& input) const;

 private:
  SandboxConfig config_;
  std::string program_;  // with its path
  int namespaces_ = 0;   // flags of unshare(2)
};

}  // namespace cadre::data
