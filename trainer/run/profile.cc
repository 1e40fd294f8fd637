#include "trainer/run/profile.h"

#include <set>

#include "parallel/base/files.h"
#include "parallel/base/log.h"

namespace cadre::trainer {

Profile::Profile(const ProfileConfig& config, const std::filesystem::path& out, int rank,
                 TraceKernels trace_kernels)
    : config_(config),
      file_(out / "profile" / fmt::format("rank-{:05}.json", rank)),
      rank_(rank),
      wall_(std::chrono::system_clock::now()),
      start_(std::chrono::steady_clock::now()),
      trace_kernels_(std::move(trace_kernels)) {
  listener_.phase = [this](base::Phase phase) {
    end_phase();
    phase_ = phase;
  };
  listener_.started = [this](uint64_t number, const char* verb, std::string_view label, uint64_t bytes) {
    open_[number] = {{"name", std::string(label)},
                     {"cat", verb},
                     {"ph", "b"},
                     {"id", number},
                     {"pid", rank_},
                     {"tid", 1},
                     {"ts", now_us()},
                     {"args", {{"verb", verb}, {"bytes", bytes}}}};
  };
  listener_.done = [this](uint64_t number) {
    const auto begin = open_.find(number);
    if (begin == open_.end()) return;
    nlohmann::json end = begin->second;
    end["ph"] = "e";
    end["ts"] = now_us();
    events_.push_back(std::move(begin->second));
    events_.push_back(std::move(end));
    open_.erase(begin);
  };
}

Profile::~Profile() {
  base::set_activity_listener(nullptr);
}

double Profile::to_us(std::chrono::steady_clock::duration since_boot) const {
  const std::chrono::duration<double, std::micro> base = wall_.time_since_epoch(),
                                                  since = since_boot - start_.time_since_epoch();
  return base.count() + since.count();
}

double Profile::now_us() const {
  return to_us(std::chrono::steady_clock::now().time_since_epoch());
}

void Profile::span(const std::string& name, double from_us) {
  events_.push_back({{"name", name},
                     {"ph", "X"},
                     {"pid", rank_},
                     {"tid", 0},
                     {"ts", from_us},
                     {"dur", now_us() - from_us}});
}

void Profile::end_phase() {
  if (phase_us_ > 0) span(base::name_of(phase_), phase_us_);
  phase_us_ = now_us();
}

void Profile::before_step(uint64_t step) {
  if (step < config_.first || step > config_.last) return;
  if (step == config_.first) begin_kernels();
  base::set_activity_listener(&listener_);
  step_us_ = now_us();
  phase_us_ = 0;
}

void Profile::after_step(uint64_t step) {
  if (step_us_ == 0) return;
  base::set_activity_listener(nullptr);
  end_phase();
  span(fmt::format("step {}", step), step_us_);
  step_us_ = 0;
  if (step != config_.last) return;
  add_kernels();
  write();
}

void Profile::begin_kernels() {
  if (!trace_kernels_) return;
  device::TraceStart start = trace_kernels_();
  kernels_ = std::move(start.trace);
  if (kernels_ == nullptr && rank_ == 0) spdlog::warn("the profile is without kernels: {}", start.why_not);
}

void Profile::add_kernels() {
  if (kernels_ == nullptr) return;
  constexpr int64_t kFirstStream = 2;  // behind the steps and the collectives
  std::set<uint64_t> streams;
  for (const device::KernelSpan& kernel : kernels_->finish()) {
    const double begin = to_us(std::chrono::nanoseconds(kernel.begin_ns)),
                 end = to_us(std::chrono::nanoseconds(kernel.end_ns));
    nlohmann::json event = {{"name", kernel.name},
                            {"cat", "kernel"},
                            {"ph", "X"},
                            {"pid", rank_},
                            {"tid", kFirstStream + int64_t(kernel.stream)},
                            {"ts", begin},
                            {"dur", end - begin}};
    if (kernel.bytes > 0) event["args"] = {{"bytes", kernel.bytes}};
    events_.push_back(std::move(event));
    streams.insert(kernel.stream);
  }
  for (const uint64_t stream : streams)
    name_thread(kFirstStream + int64_t(stream), fmt::format("stream {}", stream));
  kernels_.reset();
}

void Profile::name_thread(int64_t thread, const std::string& name) {
  events_.push_back(
      {{"name", "thread_name"}, {"ph", "M"}, {"pid", rank_}, {"tid", thread}, {"args", {{"name", name}}}});
}

void Profile::write() {
  events_.push_back({{"name", "process_name"},
                     {"ph", "M"},
                     {"pid", rank_},
                     {"args", {{"name", fmt::format("rank {}", rank_)}}}});
  name_thread(0, "steps");
  name_thread(1, "collectives");
  try {
    std::error_code ignored;
    std::filesystem::create_directories(file_.parent_path(), ignored);
    base::write_file_atomic(file_, nlohmann::json{{"traceEvents", events_}}.dump() + "\n",
                            ExitCode::kCheckpoint);
    if (rank_ == 0)
      spdlog::info("profile of steps {} to {} in {}", config_.first, config_.last,
                   file_.parent_path().string());
  } catch (const Error& error) {
    spdlog::warn("the profile could not be written: {}", error.what());
  }
}

}  // namespace cadre::trainer
