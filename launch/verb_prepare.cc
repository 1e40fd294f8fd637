// `cadre prepare`: text and JSONL -> tokenizer and deduplicated shards.
#include <fmt/format.h>

#include <cstdio>

#include "data/prepare/prepare.h"
#include "launch/option_checks.h"
#include "launch/ranks.h"
#include "launch/verbs.h"

namespace cadre::launch {
namespace {

constexpr const char* kAbout = "Turns text into a tokenizer and deduplicated, tokenised shards";
constexpr const char* kNotes =
    R"(A .txt file is one document; its domain is the name of the first folder below the given INPUT folder, the
INPUT folder's own name when the file lies directly in it, or the file's stem when the file itself is given.
A .jsonl file holds one document in each line; its domain is the --domain-field, else the file's stem.
Both may be compressed (.gz, .zst); files of folders with other endings are ignored and counted.

Bad input (unreadable files, damaged archives, broken JSON, lines without text, empty documents) is left out,
counted and reported with file and line; invalid UTF-8 is counted and reported, but kept: tokenizers keep every
byte. --strict ends at the first. All of it stands in OUT/report.json.

Of equal texts the first stays. Near duplicates (MinHash of word 5-grams) go within a domain. A document is
held out for validation when the hash of its text says so, so the held-out set does not change when inputs grow;
near duplicates of held-out documents leave the training set.

--kind instruction, preference and prompts make sets for post-training, with the tokenizer of the model. A line is
{"messages": [{"role": .., "content": ..}, ..]} or {"prompt": .., "response": ..}; {"prompt": .., "chosen": .., "rejected": ..};
{"prompt": .., "answer": .., "level": ..}. A prompt or an answer is text or a list of messages. Only the assistant's answers are
trained. Equal examples stay once; options about text, near duplicates and memory do not apply.

A killed run goes on where it was when it is started again with the same inputs and options. The output is the
same for any --threads and any number of ranks (mpirun -np N cadre prepare ...).)";

void print_result(const data::PrepareResult& result, const std::filesystem::path& out) {
  fmt::print("{}", data::report_text(result.report, result.manifest));
  std::string times;
  for (const auto& [pass, seconds] : result.seconds) times += fmt::format(" {}={:.3f}", pass, seconds);
  if (!times.empty()) fmt::print("seconds:{}\n", times);
  fmt::print("wrote {}\n", (out / "manifest.json").string());
  std::fflush(stdout);
}

}  // namespace

void add_prepare(CLI::App& app, Run& run) {
  CLI::App* verb = app.add_subcommand("prepare", kAbout);
  auto options = std::make_shared<data::PrepareOptions>();
  data::PrepareOptions& o = *options;
  const CLI::AsSizeValue bytes(false);  // "2GiB", "500kB"
  verb->footer(kNotes);
  verb->option_defaults()->always_capture_default();
  verb->add_option("inputs", o.inputs, "Files and folders of .txt and .jsonl, also .gz and .zst")->required();
  verb->add_option("-o,--out", o.out, "Folder for manifest.json, shards and tokenizer")->required();
  verb->add_option("--tokenizer", o.tokenizer,
                   "sentencepiece (train one), bytes, a .model, a tokenizer.json or the folder with it, or a "
                   "saved tokenizer");
  verb->add_option("--vocab-size", o.vocab_size, "Pieces of a trained tokenizer");
  verb->add_option("--sample", o.sample_bytes, "Bytes of text to train the tokenizer on")->transform(bytes);
  verb->add_option_function<std::string>(
          "--kind",
          [options](const std::string& word) {
            for (int k = 0; k < 4; ++k) {
              if (word == data::name_of(data::SetKind(k))) options->kind = data::SetKind(k);
            }
          },
          "What the inputs hold: text; or JSONL of conversations, pairs of answers, or prompts with answers")
      ->check(CLI::IsMember({"text", "instruction", "preference", "prompts"}))
      ->default_str("text");
  verb->add_option("--chat-template", o.chat_template,
                   "Of conversations: plain, tokenizer (the one that came with it), or a file");
  verb->add_option("--max-tokens", o.max_tokens,
                   "Longer conversations, pairs and prompts are left out; 0: none")
      ->check(at_least(0));
  verb->add_option("--text-field", o.text_field, "JSON field of the text");
  verb->add_option("--domain-field", o.domain_field, "JSON field of the domain");
  verb->add_option("--id-field", o.id_field, "JSON field that names a document in reports");
  verb->add_option("--near-duplicates", o.near_duplicates,
                   "Similarity from which a near duplicate goes; 0: off");
  verb->add_option("--min-chars", o.min_chars, "Shorter documents are left out (Unicode characters)");
  verb->add_option("--max-chars", o.max_chars,
                   "Longer documents are left out; 0: only those above memory / 32 bytes");
  verb->add_option("--valid-fraction", o.valid_fraction, "Share of documents to hold out");
  verb->add_option("--shard-tokens", o.shard_tokens, "Tokens of a shard at most");
  verb->add_option("--threads", o.threads, "Threads of each rank; 0: all cores");
  verb->add_option("--memory", o.memory_bytes, "Memory of each rank, whatever the inputs' size")
      ->transform(bytes);
  verb->add_flag("--strict", o.strict, "End at the first bad input");
  verb->add_flag("--force", o.force, "Replace the data that OUT holds");
  verb->callback([options, &run] {
    run = [options] {
      return run_ranks([&](comm::World& world) {
        const data::PrepareResult result = data::prepare(*options, world);
        if (world.rank() == 0) print_result(result, options->out);
        return int(ExitCode::kOk);
      });
    };
  });
}

}  // namespace cadre::launch
