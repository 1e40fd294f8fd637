// `cadre generate`: text from a checkpoint, in one process whatever layout trained it.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "data/tokenizers/chat_template.h"
#include "launch/model_arguments.h"
#include "launch/option_checks.h"
#include "launch/ranks.h"
#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "parallel/base/json_depth.h"
#include "trainer/run/generate.h"

namespace cadre::launch {
namespace {

struct GenerateArguments {
  std::string path, prompt, chat, chat_template;
  int64_t tokens = 200;
  trainer::SamplingConfig sampling;
};

// How many bytes at the end of `text` begin a UTF-8 sequence that is not complete: they wait for the next
// token.
size_t unfinished_bytes(const std::string& text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // a continuation; look further back for the lead
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

// The ids of a conversation that waits for an answer. The file holds the list of messages, or an object with
// "messages" and what else the template asks for.
std::vector<int32_t> chat_prompt(const GenerateArguments& arguments, const data::Tokenizer& tokenizer) {
  const std::string text = base::read_file(arguments.chat, ExitCode::kUsage, uint64_t(1) << 28);
  require(base::json_depth(text) <= base::kMaxJsonDepth, ExitCode::kUsage, "{}: nested too deeply",
          arguments.chat);
  auto file = data::jinja::Json::parse(text, nullptr, false);
  require(!file.is_discarded(), ExitCode::kUsage, "{}: no JSON", arguments.chat);
  data::ChatOptions options{.add_generation_prompt = true};
  data::jinja::Json messages = file;
  if (file.is_object()) {
    require(file.contains("messages"), ExitCode::kUsage, "{}: no \"messages\"", arguments.chat);
    messages = file["messages"];
    file.erase("messages");
    options.variables = file;
  }
  const data::ChatTemplate chat = data::load_chat_template(tokenizer, arguments.chat_template);
  return data::encode_chat(tokenizer, chat.render(messages, options)).ids;
}

int generate_text(const GenerateArguments& arguments, comm::World& world) {
  require(world.size() == 1, ExitCode::kUsage, "cadre generate runs in one process; start it without mpirun");
  LoadedModel loaded = load_model(arguments.path, world, 1);
  const auto tokenizer = load_saved_tokenizer(loaded.folder);
  std::vector<int32_t> ids;
  if (arguments.chat.empty()) {
    ids.push_back(int32_t(tokenizer->bos()));
    tokenizer->encode(arguments.prompt, ids);
    fmt::print("{}", arguments.prompt);
  } else {
    ids = chat_prompt(arguments, *tokenizer);
  }
  // Text is decoded as a whole and printed as far as it is complete: a token may be part of a character.
  std::vector<int32_t> produced;
  size_t printed = 0;
  trainer::generate(*loaded.model, ids, arguments.tokens, tokenizer->eos(), arguments.sampling,
                    [&](int32_t token) {
                      produced.push_back(token);
                      const std::string text = tokenizer->decode(produced);
                      const size_t end = text.size() - unfinished_bytes(text);
                      if (end > printed) fmt::print("{}", text.substr(printed, end - printed));
                      printed = std::max(printed, end);
                      std::fflush(stdout);
                    });
  const std::string text = tokenizer->decode(produced);
  fmt::print("{}\n", text.substr(std::min(printed, text.size())));
  return int(ExitCode::kOk);
}

}  // namespace

void add_generate(CLI::App& app, Run& run) {
  const auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* verb = app.add_subcommand("generate", "Text from a checkpoint");
  trainer::SamplingConfig& sampling = arguments->sampling;
  verb->add_option("path", arguments->path, "A run folder (its newest checkpoint) or a checkpoint")
      ->required();
  CLI::Option* const prompt =
      verb->add_option("--prompt", arguments->prompt, "Text to continue (default: the start of a document)");
  CLI::Option* const chat =
      verb->add_option("--chat", arguments->chat,
                       "JSON file with messages to answer, by the chat template of the tokenizer")
          ->check(CLI::ExistingFile)
          ->excludes(prompt);
  verb->add_option("--chat-template", arguments->chat_template,
                   "Another template: a .jinja, a tokenizer_config.json, or a folder with one")
      ->check(CLI::ExistingPath)
      ->needs(chat);
  verb->add_option("--tokens", arguments->tokens, "At most this many tokens")
      ->capture_default_str()
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20));
  verb->add_option("--temperature", sampling.temperature, "0: always the likeliest token")
      ->capture_default_str()
      ->check(between(0.0, 100.0));
  verb->add_option("--top-k", sampling.top_k, "Only the k likeliest tokens; 0: all")
      ->capture_default_str()
      ->check(at_least(0));
  verb->add_option("--top-p", sampling.top_p, "Only the likeliest tokens that make up this probability")
      ->capture_default_str()
      ->check(between(0.0, 1.0));
  verb->add_option("--seed", sampling.seed, "The same seed gives the same text")
      ->check(at_least(0))
      ->capture_default_str();
  verb->callback([arguments, &run] {
    run = [arguments] {
      return run_ranks([&](comm::World& world) { return generate_text(*arguments, world); });
    };
  });
}

}  // namespace cadre::launch
