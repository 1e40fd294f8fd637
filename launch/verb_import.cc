// `cadre import`: a published model (config.json and safetensors) becomes a checkpoint.
#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <memory>

#include "launch/ranks.h"
#include "launch/verbs.h"
#include "parallel/base/log.h"
#include "trainer/interop/transfer.h"

namespace cadre::launch {
namespace {

struct ImportArguments {
  interop::ImportOptions options;
  std::string from, to, upcycle;
  bool no_tokenizer = false;
};

// "experts=8,top_k=2", in any order.
interop::Upcycle read_upcycle(const std::string& text) {
  interop::Upcycle upcycle;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size()), equals = std::min(text.find('=', at), end);
    const std::string key = text.substr(at, equals - at);
    int* value = key == "experts" ? &upcycle.experts : key == "top_k" ? &upcycle.top_k : nullptr;
    const char *first = text.data() + std::min(equals + 1, end), *last = text.data() + end;
    const bool read =
        value != nullptr && std::from_chars(first, last, *value) == std::from_chars_result{last, {}};
    require(read, ExitCode::kUsage, "--upcycle: found '{}', expected experts=E,top_k=K", text);
    at = end + 1;
  }
  constexpr int kMaxExperts = 65536;
  require(upcycle.top_k >= 1 && upcycle.experts >= upcycle.top_k && upcycle.experts <= kMaxExperts,
          ExitCode::kUsage, "--upcycle: found {} experts and top_k {}, expected 1 <= top_k <= experts <= {}",
          upcycle.experts, upcycle.top_k, kMaxExperts);
  return upcycle;
}

int import_rank(const ImportArguments& arguments, comm::World& world) {
  interop::ImportOptions options = arguments.options;
  options.from = arguments.from;
  options.to = arguments.to;
  options.tokenizer = !arguments.no_tokenizer;
  if (!arguments.upcycle.empty()) options.upcycle = read_upcycle(arguments.upcycle);
  const auto start = std::chrono::steady_clock::now();
  const interop::TransferReport r = interop::import_model(options, world);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (world.rank() == 0) {
    fmt::print("{}: {:.2f} M parameters from {} tensors, {:.1f} MB of {}, in {:.1f} s: {}\n", r.model_type,
               double(r.parameters) / 1e6, r.tensors, double(r.bytes) / 1e6, name_of(r.format), seconds,
               arguments.to);
  }
  return int(ExitCode::kOk);
}

}  // namespace

void add_import(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<ImportArguments>();
  CLI::App* verb =
      app.add_subcommand("import", "A published model (Llama, Mixtral, OLMoE, Qwen3) as a checkpoint");
  verb->add_option("folder", arguments->from, "Folder with config.json and *.safetensors")->required();
  verb->add_option("checkpoint", arguments->to, "Where the checkpoint goes; must not exist")->required();
  verb->add_option("--upcycle", arguments->upcycle,
                   "experts=E,top_k=K: make a dense model one with E copies of each feed-forward layer");
  verb->add_option("--seq-len", arguments->options.seq_len,
                   "Sequence length of eval and generate (default: the model's, at most 2048)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20));
  verb->add_flag("--no-tokenizer", arguments->no_tokenizer, "Do not read the folder's tokenizer");
  verb->footer("mpirun -np N cadre import ... shares the tensors over N ranks.");
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return import_rank(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
