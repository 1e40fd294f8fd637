#include "data/prepare/chat_set.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "data/prepare/chat_encoder.h"
#include "data/prepare/chat_lines.h"
#include "data/prepare/inputs.h"
#include "data/prepare/source.h"
#include "data/prepare/workers.h"
#include "data/shard.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxLine = size_t(1) << 28;

// The first 16 bytes of a SHA-256, from its hex digits.
DocHash short_hash(const std::string& text) {
  const std::string hex = base::sha256_text(text);
  DocHash hash;
  for (size_t i = 0; i < hash.size(); ++i) hash[i] = uint8_t(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return hash;
}

class ChatSetMaker {
 public:
  ChatSetMaker(const PrepareOptions& options, PrepareResult& result)
      : o_(options),
        result_(result),
        tokenizer_(options.tokenizer == "bytes" ? make_byte_tokenizer() : load_tokenizer(options.tokenizer)),
        encoder_(*tokenizer_, options.chat_template),
        inputs_(find_inputs(options.inputs, uint64_t(1) << 40)) {
    for (const InputFile& file : inputs_.files) domain_ids_.emplace(file.domain, 0);
    for (auto& [name, id] : domain_ids_) {
      id = int(domains_.size());
      domains_.push_back(name);
    }
    require(!domains_.empty(), ExitCode::kData, "the inputs hold no .jsonl file");
    for (const char* name : {"train", "valid"}) {
      Split split{name, {}, {}};
      for (const std::string& domain : domains_) split.domains.push_back({domain, 0, 0, 0});
      manifest().splits.push_back(split);
      writers_.push_back(std::make_unique<ShardWriter>(ShardHeader{
          base::sha256_text(tokenizer_->definition()), tokenizer_->vocab_size(), domains_, name, o_.kind}));
    }
  }

  void run() {
    require(o_.force || !fs::exists(o_.out / "manifest.json"), ExitCode::kUsage,
            "{} holds prepared data already; give --force to replace it, or another --out", o_.out.string());
    std::error_code error;
    fs::create_directories(o_.out, error);
    require(!error, ExitCode::kData, "cannot make folder {}: {}", o_.out.string(), error.message());
    fs::remove(o_.out / "manifest.json", error);  // without it nothing reads the rest
    report().files = int64_t(inputs_.files.size());
    report().ignored_files = inputs_.ignored;
    report().input_bytes = int64_t(inputs_.bytes);
    for (const InputFile& file : inputs_.files) read_file(file);
    for (size_t split = 0; split < 2; ++split) finish_shard(split);
    require(!manifest().splits[0].shards.empty(), ExitCode::kData,
            "nothing to train on is left of {} examples; the first problem: {}", report().documents_read,
            first_problem());
    publish();
  }

 private:
  Manifest& manifest() { return result_.manifest; }
  Report& report() { return result_.report; }

  void problem(InputProblem problem, const InputFile& file, int64_t line, const std::string& detail) {
    const ProblemPlace place{file.path.string(), line, "", detail};
    if (first_problem_.empty()) first_problem_ = describe(problem, place);
    require(!o_.strict || !is_bad_input(problem), ExitCode::kData, "{}", describe(problem, place));
    ++report().counts[size_t(problem)];
    auto& places = report().places[size_t(problem)];
    if (places.size() < Report::kMaxPlaces) places.push_back(place);
  }
  std::string first_problem() const { return first_problem_.empty() ? "none" : first_problem_; }

  void read_file(const InputFile& file) {
    if (file.format != Format::kJsonl)
      return problem(InputProblem::kBrokenJson, file, 0, "not a .jsonl file");
    int64_t line = 0;
    try {
      const auto source = open_source(file, 0);
      std::string pending;
      std::array<char, 1 << 16> block;
      for (size_t n; (n = source->read(block)) > 0;) {
        pending.append(block.data(), n);
        size_t begin = 0;
        for (size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1)
          add_line(file, ++line, pending.substr(begin, end - begin));
        pending.erase(0, begin);
        require(pending.size() < kMaxLine, ExitCode::kData, "{}: line {} has more than {} bytes",
                file.path.string(), line + 1, kMaxLine);
      }
      if (!pending.empty()) add_line(file, ++line, pending);
    } catch (const SourceError& error) {
      const bool damaged = error.kind() == SourceError::Kind::kDamaged;
      problem(damaged ? InputProblem::kDamagedArchive : InputProblem::kUnreadableFile, file, line,
              error.what());
    }
  }

  void add_line(const InputFile& file, int64_t line, const std::string& text) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) return;
    ++report().documents_read;
    ChatExample example;
    if (const std::string wrong = parse_chat_line(text, o_.kind, example); !wrong.empty())
      return problem(wrong == "not JSON" ? InputProblem::kBrokenJson : InputProblem::kNoText, file, line,
                     wrong);
    std::vector<ChatEncoder::Encoded> rows;
    try {
      rows = encode(example);
    } catch (const Error& error) {
      return problem(InputProblem::kNoText, file, line, error.what());
    }
    int64_t tokens = 0;
    for (const auto& row : rows) tokens += int64_t(row.ids.size());
    if (o_.max_tokens > 0 && tokens > o_.max_tokens)
      return problem(InputProblem::kTooLong, file, line, fmt::format("{} tokens", tokens));
    std::string key;
    for (const auto& row : rows)
      key.append(reinterpret_cast<const char*>(row.ids.data()), row.ids.size() * 4) += '|';
    const DocHash hash = short_hash(key + example.answer);
    if (!seen_.insert(hash).second) return problem(InputProblem::kExactDuplicate, file, line, "");
    write(file, example, rows, tokens, hash, text.size());
  }

  std::vector<ChatEncoder::Encoded> encode(const ChatExample& e) const {
    if (o_.kind == SetKind::kPrompts) return {{encoder_.prompt(e.prompt), {}}};
    std::vector<ChatEncoder::Encoded> rows;
    for (const auto* answer : {&e.chosen, &e.rejected}) {
      if (o_.kind == SetKind::kInstruction && answer == &e.rejected) break;
      nlohmann::ordered_json messages = e.prompt;
      for (const auto& m : *answer) messages.push_back(m);
      rows.push_back(encoder_.conversation(messages, e.prompt.size()));
      const auto& mask = rows.back().answer;
      require(std::find(mask.begin(), mask.end(), 1) != mask.end(), ExitCode::kData,
              "no token of it belongs to an answer");
    }
    return rows;
  }

  // Of an instruction's messages, what comes before the first answer.
  std::string prompt_text(const ChatExample& e) const {
    std::string text = e.prompt.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    for (size_t i = 0; e.prompt.empty() && i < e.chosen.size() && e.chosen[i]["role"] != "assistant"; ++i)
      text += e.chosen[i].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return text;
  }

  void write(const InputFile& file, const ChatExample& e, const std::vector<ChatEncoder::Encoded>& rows,
             int64_t tokens, const DocHash& hash, size_t bytes) {
    const DocHash prompt = short_hash(prompt_text(e));
    const double at =
        double(uint32_t(prompt[0]) << 24 | uint32_t(prompt[1]) << 16 | uint32_t(prompt[2]) << 8 | prompt[3]) *
        0x1p-32;
    const size_t split = at < o_.valid_fraction ? 1 : 0;
    ShardWriter& writer = *writers_[split];
    if (writer.documents() > 0 && writer.tokens() + tokens > o_.shard_tokens) finish_shard(split);
    const int domain = domain_ids_.at(file.domain);
    DomainInfo& info = manifest().splits[split].domains[size_t(domain)];
    for (const auto& row : rows) {
      // A line's bytes are counted once, with its first document.
      const uint32_t own = &row == &rows.front() ? uint32_t(bytes) : 0;
      writer.add(row.ids, domain, own, hash, {row.answer, e.answer, e.level});
      ++info.documents;
      info.tokens += int64_t(row.ids.size());
      info.bytes += own;
    }
  }

  void finish_shard(size_t split) {
    if (writers_[split]->documents() == 0) return;
    Split& s = manifest().splits[split];
    s.shards.push_back(writers_[split]->finish(o_.out, fmt::format("{}-{:05}.h5", s.name, s.shards.size())));
  }

  void publish() {
    save_tokenizer(*tokenizer_, o_.out);
    Manifest& m = manifest();
    m.kind = o_.kind;
    m.tokenizer_file = tokenizer_->file_name();
    m.tokenizer_kind = tokenizer_->kind();
    m.tokenizer_sha256 = base::sha256_text(tokenizer_->definition());
    m.vocab_size = tokenizer_->vocab_size();
    m.bos = tokenizer_->bos();
    m.eos = tokenizer_->eos();
    report().tokenizer = fmt::format("{}, {} ids", tokenizer_->kind(), tokenizer_->vocab_size());
    base::write_file_atomic(o_.out / "report.json", report_json(report(), m), ExitCode::kData);
    save_manifest(m, o_.out / "manifest.json");
  }

  const PrepareOptions& o_;
  PrepareResult& result_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ChatEncoder encoder_;
  Inputs inputs_;
  std::map<std::string, int> domain_ids_;
  std::vector<std::string> domains_;
  std::vector<std::unique_ptr<ShardWriter>> writers_;  // train, valid
  std::set<DocHash> seen_;
  std::string first_problem_;
};

}  // namespace

PrepareResult prepare_chat_set(const PrepareOptions& options, comm::World& world) {
  require(
      options.tokenizer != "sentencepiece", ExitCode::kUsage,
      "--kind {} needs the tokenizer of the model that it is for: give --tokenizer the file of a run or a "
      "prepared folder, or `bytes`",
      name_of(options.kind));
  const std::unique_ptr<comm::Communicator> comm = world.everyone("prepare");
  comm->set_timeout(std::chrono::hours(24 * 7));  // the others wait while rank 0 works
  PrepareResult result;
  run_on_root(*comm, "prepare: examples", [&] { ChatSetMaker(options, result).run(); });
  result.manifest = load_manifest(options.out / "manifest.json");
  return result;
}

}  // namespace cadre::data
