// The reward that an external program prints: {"prompt", "response", "answer"} as one JSON object on its standard input, a
// number on the first line of its standard output, or a JSON object with "reward". It runs isolated
// (rewards/sandbox.h), several at a time. Anything else - a program that hangs, fails, prints something else - is reward 0 and a
// failure.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/rewards/makers.h"
#include "data/rewards/sandbox.h"
#include "data/rewards/single.h"

namespace cadre::data {
namespace {

using nlohmann::json;

RewardResult read_output(const std::string& output) {
  const std::string text(trimmed(output));
  const std::string_view line = trimmed(std::string_view(text).substr(0, text.find('\n')));
  const auto wrong = [&](const std::string& what) {
    const json shown = std::string(line.substr(0, 60));
    return RewardResult::failed("printed " + shown.dump(-1, ' ', true, json::error_handler_t::replace) +
                                ", " + what);
  };
  double value = std::nan("");
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
  if (error != std::errc() || end != line.data() + line.size()) {
    const json object = json::parse(text, nullptr, false);
    if (!object.is_object() || !object.contains("reward") || !object["reward"].is_number())
      return wrong("expected a number, or a JSON object with the number \"reward\"");
    value = object["reward"].get<double>();
  }
  if (!std::isfinite(value)) return wrong("expected a finite number");
  return {.value = value, .parsed = std::string(line), .failure = {}};
}

class Program final : public Reward {
 public:
  Program(Sandbox sandbox, int parallel) : sandbox_(std::move(sandbox)), parallel_(parallel) {}

  std::vector<RewardResult> score(std::span<const RewardRequest> requests) const override {
    std::vector<RewardResult> results(requests.size());
    std::atomic<size_t> next = 0;
    const auto work = [&] {
      for (size_t i = next++; i < requests.size(); i = next++) results[i] = judge(requests[i]);
    };
    std::vector<std::jthread> others;
    for (int i = 1; i < std::min(parallel_, int(requests.size())); ++i) others.emplace_back(work);
    work();
    others.clear();
    return results;
  }

 private:
  RewardResult judge(const RewardRequest& request) const {
    const json input = {
        {"prompt", request.prompt}, {"response", request.response}, {"answer", request.answer}};
    const SandboxResult run = sandbox_.run(input.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
    if (!run.failure.empty()) return RewardResult::failed("the reward program " + run.failure);
    RewardResult result = read_output(run.output);
    if (!result.failure.empty()) result.failure = "the reward program " + result.failure;
    return result;
  }

  Sandbox sandbox_;
  int parallel_;
};

}  // namespace

std::unique_ptr<Reward> make_program(base::Section section) {
  SandboxConfig config;
  config.command = section.texts("command", {});
  config.timeout =
      std::chrono::milliseconds(int64_t(1000 * section.number("timeout_s", 10, {.min = 0.01, .max = 3600})));
  config.memory_bytes = section.integer("memory_mb", 512, {.min = 16, .max = 1 << 20}) << 20;
  config.output_bytes = section.integer("output_bytes", config.output_bytes, {.min = 16, .max = 1 << 30});
  config.allow_network = section.boolean("allow_network", false);
  const int parallel = int(section.integer("parallel", 4, {.min = 1, .max = 1024}));
  section.finish();
  return std::make_unique<Program>(Sandbox(config, section.source() + ": reward.command"), parallel);
}

}  // namespace cadre::data
