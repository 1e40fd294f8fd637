// `profile: {steps: 10-12}`: what each rank did in these steps, as <out>/profile/rank-00000.json in Chrome's trace format
// (chrome://tracing, Perfetto). Thread 0 holds steps and their phases, thread 1 the collectives with label and size, from
// their start until they were seen to be done; on an accelerator that can record them, a thread for each of its streams holds
// the kernels and copies.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "parallel/base/blackbox.h"
#include "parallel/device/kernel_trace.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

// For the rank's own thread. Costs nothing outside of its steps.
class Profile {
 public:
  using TraceKernels = std::function<device::TraceStart()>;  // empty on the CPU
  Profile(const ProfileConfig& config, const std::filesystem::path& out, int rank,
          TraceKernels trace_kernels = {});
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;
  // Around each step; `step` counts from 1. The file is written after the last one; a failure is a warning.
  void before_step(uint64_t step);
  void after_step(uint64_t step);

 private:
  double now_us() const;
  double to_us(std::chrono::steady_clock::duration since_boot) const;
  void span(const std::string& name, double from_us);
  void end_phase();
  void begin_kernels();
  void add_kernels();
  void name_thread(int64_t thread, const std::string& name);
  void write();

  ProfileConfig config_;
  std::filesystem::path file_;
  int rank_;
  std::chrono::system_clock::time_point
      wall_;  // of start_, so that the ranks' files can be laid over each other
  std::chrono::steady_clock::time_point start_;
  TraceKernels trace_kernels_;
  std::unique_ptr<device::KernelTrace> kernels_;
  base::ActivityListener listener_;
  nlohmann::json events_ = nlohmann::json::array();
  std::map<uint64_t, nlohmann::json> open_;  // collectives by number
  base::Phase phase_ = base::Phase::kStart;
  double phase_us_ = 0, step_us_ = 0;
};

}  // namespace cadre::trainer
