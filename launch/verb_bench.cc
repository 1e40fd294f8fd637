// `cadre bench`: the speed of a run's training step and the share of the SGEMM peak that it reaches.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "launch/ranks.h"
#include "launch/verbs.h"
#include "parallel/comm/transports.h"
#include "trainer/run/bench.h"
#include "trainer/run/bench_comm.h"
#include "trainer/run/bench_rollout.h"
#include "trainer/run/initial_model.h"

namespace cadre::launch {
namespace {

struct BenchArguments {
  std::string run_file, batches, save;
  std::vector<std::string> overrides;
  int imitate = 0;
  double wire_gb_s = 0;
  bool json = false, turns = false;
};

void print_text(const trainer::BenchResult& r) {
  fmt::print("{:.2f} M parameters, {:.2f} M active matmul parameters a token; {} rank{} of {} thread{}\n",
             double(r.params) / 1e6, double(r.active_params) / 1e6, r.ranks, r.ranks == 1 ? "" : "s",
             r.threads, r.threads == 1 ? "" : "s");
  for (const trainer::PeakSample& peak : r.peaks) {
    fmt::print("SGEMM {0} x {0} x {0}, {1} thread{2}: {3:.1f} GFLOP/s\n", peak.n, peak.threads,
               peak.threads == 1 ? "" : "s", peak.best_flops / 1e9);
  }
  if (r.imitated)
    fmt::print(
        "{} ranks are imitated: this one takes its own data for theirs, and what goes between them is copied "
        "here{}\n",
        r.ranks - 1,
        r.wire_bytes_per_s > 0 ? fmt::format(", as slowly as at {} GB/s", r.wire_bytes_per_s / 1e9) : "");
  const double median = r.median_seconds();
  fmt::print(
      "step: median {:.1f} ms over {} (fastest {:.1f}, slowest {:.1f}), mean {:.1f}, {:.0f} tokens/s\n",
      1e3 * median, r.step_seconds.size(), 1e3 * r.step_seconds.front(), 1e3 * r.step_seconds.back(),
      1e3 * r.mean_seconds, double(r.tokens) / median);
  fmt::print("data: a step waited {:.2f} ms\n", r.data_wait_ms);
  if (r.alone_seconds > 0) {
    fmt::print(
        "communication: {:.1f}% of the step is exposed ({:.1f} ms with each collective replaced by a local "
        "copy)\n",
        100 * r.exposed_share(), 1e3 * r.alone_seconds);
  }
  if (r.ranks > 1) {
    fmt::print("tokens/s a rank: {:.0f}\n", double(r.tokens) / median / r.ranks);
    if (r.rank_load > 1)
      fmt::print("experts: the fullest rank has {:.3f} of the mean; they changed ranks in {} layers\n",
                 r.rank_load, r.moved_layers);
  }
  if (r.save.steps > 0) {
    fmt::print("checkpoint: {:.1f} GiB in {:.2f} s, beside {} steps of {:.1f} ms ({:+.1f}%)\n", r.save.gib,
               r.save.seconds, r.save.steps, 1e3 * r.save.step_seconds,
               100 * (r.save.step_seconds / r.mean_seconds - 1));
  }
  fmt::print("work: 6 x {:.2f} M + attention = {:.4f} GFLOP/token\n", double(r.active_params) / 1e6,
             r.flops_per_token / 1e9);
  fmt::print("speed: {:.1f} GFLOP/s of {:.1f} = {:.1f}% of the {} peak\n", r.flops() / 1e9,
             r.peak_flops / 1e9, 100 * r.flops() / r.peak_flops, r.gpu_bytes > 0 ? "dense bf16" : "SGEMM");
  fmt::print("memory of rank 0, planned, in GiB: {}\n", r.plan.text());
  fmt::print("activations by train.activation_recompute, in GiB:");
  for (const trainer::Recompute kind : trainer::kRecomputes)
    fmt::print(" {} {:.2f}", recompute_name(kind), double(r.activations[int(kind)]) / 0x1p30);
  fmt::print("\n");
  if (r.gpu_bytes > 0) fmt::print("GPU memory in use: {:.2f} GiB\n", double(r.gpu_bytes) / 0x1p30);
}

int bench_comm(const trainer::CommBenchConfig& config, comm::World& world) {
  const auto samples = trainer::bench_collectives(config, world);
  if (world.rank() != 0) return int(ExitCode::kOk);
  fmt::print(
      "{} ranks; bandwidth in GB/s: of the algorithm (bytes over time), of the bus (what each rank must "
      "send)\n",
      world.size());
  for (const trainer::CommSample& s : samples) {
    fmt::print("{:<26} {:>9.2f} MiB {:>10.1f} us {:>8.1f} {:>8.1f}\n", s.what, double(s.bytes) / 0x1p20,
               1e6 * s.seconds, s.algorithm_bandwidth() / 1e9, s.bus_bandwidth() / 1e9);
  }
  return int(ExitCode::kOk);
}

void print_json(const trainer::BenchResult& r) {
  nlohmann::ordered_json peaks = nlohmann::ordered_json::array();
  for (const trainer::PeakSample& peak : r.peaks) {
    peaks.push_back({{"n", peak.n}, {"threads", peak.threads}, {"gflops", peak.best_flops / 1e9}});
  }
  nlohmann::ordered_json root = {
      {"params", r.params},
      {"active_params", r.active_params},
      {"ranks", r.ranks},
      {"imitated_ranks", r.imitated ? r.ranks - 1 : 0},
      {"imitated_gb_s", r.wire_bytes_per_s / 1e9},
      {"threads", r.threads},
      {"sgemm", peaks},
      {r.gpu_bytes > 0 ? "bf16_peak_gflops" : "sgemm_peak_gflops", r.peak_flops / 1e9},
      {"planned_bytes", r.plan.total()},
      {"activation_bytes", r.activations},
      {"gpu_gib", double(r.gpu_bytes) / 0x1p30},
      {"steps", r.step_seconds.size()},
      {"step_ms_median", 1e3 * r.median_seconds()},
      {"step_ms_mean", 1e3 * r.mean_seconds},
      {"step_ms_min", 1e3 * r.step_seconds.front()},
      {"step_ms_max", 1e3 * r.step_seconds.back()},
      {"tokens", r.tokens},
      {"tokens_per_s", double(r.tokens) / r.median_seconds()},
      {"loss", r.loss},
      {"step_ms_without_communication", 1e3 * r.alone_seconds},
      {"exposed_communication", r.exposed_share()},
      {"rank_load_max_over_mean", r.rank_load},
      {"moved_layers", r.moved_layers},
      {"gflop_per_token", r.flops_per_token / 1e9},
      {"gflops", r.flops() / 1e9},
      {"share_of_peak", r.flops() / r.peak_flops}};
  if (r.save.steps > 0) {
    root["save_gib"] = r.save.gib;
    root["save_seconds"] = r.save.seconds;
    root["save_steps"] = r.save.steps;
    root["save_step_ms"] = 1e3 * r.save.step_seconds;
    root["save_cost"] = r.save.step_seconds / r.mean_seconds - 1;
  }
  fmt::print("{}\n", root.dump());
}

// So that programs which are compared run one after the other many times, whatever the machine does meanwhile.
void take_turns(trainer::StepBench& bench, comm::World& world) {
  require(world.size() == 1, ExitCode::kUsage, "--turns needs one rank, found {}", world.size());
  fmt::print("ready\n");
  std::fflush(stdout);
  int64_t steps = 0;
  while (std::cin >> steps && steps > 0) {
    print_json(bench.run(steps));
    std::fflush(stdout);
  }
}

int bench_rollout(const BenchArguments& arguments, const trainer::RolloutBenchConfig& bench,
                  comm::World& world) {
  const auto config = trainer::load_run(arguments.run_file, arguments.overrides);
  const trainer::RolloutBenchResult r = trainer::bench_rollout(config, world, bench);
  if (world.rank() != 0) return int(ExitCode::kOk);
  fmt::print(
      "{} prompts of {} tokens and {} new ones on each of {} ranks, {}: {:.0f} new tokens/s, median {:.3f} s "
      "of "
      "{} (fastest {:.3f}, slowest {:.3f}), {} passes\n",
      bench.prompts, bench.prompt_tokens, bench.new_tokens, r.ranks, r.bf16 ? "bf16" : "fp32",
      r.tokens_per_s(), r.median_seconds(), r.seconds.size(), r.seconds.front(), r.seconds.back(), r.passes);
  fmt::print(
      "memory: {:.2f} GB of weights, keys and values must be read, {:.1f} GB/s by copying: {:.1f}% of the "
      "bandwidth's bound\n",
      r.bytes / 1e9, r.bandwidth / 1e9, 100 * r.share_of_bound());
  fmt::print(
      "behaviour log-probabilities less those of the trainer's forward pass: mean size {:.2e}, largest "
      "{:.2e}; "
      "std(log W) {:.3g} at length {} over {} responses\n",
      r.drift.mean, r.drift.largest, r.drift.log_w_std, bench.new_tokens, r.drift.responses);
  if (!bench.trace) return int(ExitCode::kOk);
  fmt::print("one repeat with kernels recorded: {:.3f} s; microseconds a pass, launches a pass, kernel\n",
             r.traced_seconds);
  const double passes = double(r.passes);
  double busy = 0, launches = 0;
  for (const trainer::KernelShare& k : r.kernels) {
    busy += k.seconds, launches += double(k.count);
    fmt::print("{:9.2f} {:7.2f}  {}\n", 1e6 * k.seconds / passes, double(k.count) / passes,
               k.name.substr(0, 100));
  }
  fmt::print("{:9.2f} {:7.2f}  all\n", 1e6 * busy / passes, launches / passes);
  return int(ExitCode::kOk);
}

int bench(const BenchArguments& arguments, comm::World& ranks) {
  require(arguments.imitate == 0 || ranks.size() == 1, ExitCode::kUsage,
          "--imitate takes the place of the other ranks, and {} are here; start it without mpirun",
          ranks.size());
  require(arguments.imitate == 0 || arguments.save.empty(), ExitCode::kUsage,
          "--save needs all ranks, which write a part each; leave out --imitate");
  require(arguments.wire_gb_s == 0 || arguments.imitate > 0, ExitCode::kUsage,
          "--wire-gb-s is of imitated ranks; add --imitate N");
  comm::ImitatedWire wire{.bytes_per_s = 1e9 * arguments.wire_gb_s};
  comm::ImitatedWire* const timed = arguments.wire_gb_s > 0 ? &wire : nullptr;
  const std::unique_ptr<comm::World> imitated =
      arguments.imitate > 0 ? comm::make_imitated_world(arguments.imitate, timed) : nullptr;
  comm::World& world = imitated ? *imitated : ranks;
  const auto config = trainer::load_run(arguments.run_file, arguments.overrides);
  const trainer::Dataset dataset =
      config.data.manifest.empty() ? trainer::random_dataset(config) : trainer::open_dataset(config);
  trainer::StepBench bench(config, dataset, world, arguments.batches);
  if (arguments.turns) {
    take_turns(bench, world);
  } else {
    trainer::BenchResult result = bench.run(config.train.steps, timed);
    if (!arguments.save.empty()) result.save = bench.measure_save(arguments.save);
    if (world.rank() == 0) arguments.json ? print_json(result) : print_text(result);
  }
  return int(ExitCode::kOk);
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<BenchArguments>();
  CLI::App* verb = app.add_subcommand("bench", "Speed of a training step against the SGEMM peak");
  verb->add_option("run", arguments->run_file, "The run file; without data.manifest, tokens are random");
  verb->add_option("overrides", arguments->overrides, "key.sub=value ...");
  verb->add_flag("--json", arguments->json, "One JSON object instead of text");
  verb->add_flag("--turns", arguments->turns,
                 "Read numbers of steps from the standard input, take each and print its JSON");
  verb->add_option("--batches", arguments->batches,
                   "Write what the first 8 steps train on: tokens, then targets of each, as int32");
  verb->add_option(
          "--imitate", arguments->imitate,
          "Be one of that many ranks, alone: the time and memory of a rank on a cluster, without its wire")
      ->check(CLI::Range(2, 1 << 20));
  verb->add_option("--wire-gb-s", arguments->wire_gb_s,
                   "With --imitate, on a GPU: what would come from the others comes no faster than that, by "
                   "copy engines")
      ->check(CLI::PositiveNumber);
  verb->add_option("--save", arguments->save,
                   "Then write a checkpoint into this folder while steps go on, and say what that costs");
  const auto comm_config = std::make_shared<trainer::CommBenchConfig>();
  CLI::App* collectives =
      verb->add_subcommand("comm", "Speed of collectives between all ranks, beside NCCL's own on GPUs");
  collectives->add_option("--device", comm_config->device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  collectives->add_option("--max-bytes", comm_config->max_bytes, "Largest size")
      ->check(CLI::Range(int64_t(1) << 18, int64_t(1) << 34))
      ->capture_default_str();
  collectives->add_option("--repeats", comm_config->repeats, "Timed calls of each size")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  const auto rollout_config = std::make_shared<trainer::RolloutBenchConfig>();
  const auto rollout_run = std::make_shared<BenchArguments>();
  CLI::App* rollout =
      verb->add_subcommand("rollout", "Speed of sampling from random values, against the memory's bandwidth");
  rollout->add_option("run", rollout_run->run_file, "The run file")->required();
  rollout->add_option("overrides", rollout_run->overrides, "key.sub=value ...");
  const std::pair<const char*, int64_t*> counts[] = {{"--prompts", &rollout_config->prompts},
                                                     {"--prompt-tokens", &rollout_config->prompt_tokens},
                                                     {"--new-tokens", &rollout_config->new_tokens},
                                                     {"--repeats", &rollout_config->repeats}};
  for (const auto& [name, value] : counts)
    rollout->add_option(name, *value)->check(CLI::Range(int64_t(1), int64_t(1) << 20))->capture_default_str();
  rollout->add_flag("--trace", rollout_config->trace,
                    "One more repeat, and where the time of a pass goes, by kernel of the GPU");
  verb->callback([arguments, collectives, comm_config, rollout, rollout_config, rollout_run, &run] {
    if (rollout->parsed()) {
      run = [rollout_config, rollout_run] {
        return run_ranks(
            [&](comm::World& world) { return bench_rollout(*rollout_run, *rollout_config, world); });
      };
      return;
    }
    if (collectives->parsed()) {
      run = [comm_config] {
        return run_ranks([&](comm::World& world) { return bench_comm(*comm_config, world); });
      };
      return;
    }
    run = [arguments] {
      require(!arguments->run_file.empty(), ExitCode::kUsage,
              "bench: name a run file, `bench comm` or `bench rollout`");
      return run_ranks([&](comm::World& world) { return bench(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
