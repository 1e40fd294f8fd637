#include "data/prepare/prepare.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/prepare/assemble.h"
#include "data/prepare/chat_set.h"
#include "data/prepare/choose_tokenizer.h"
#include "data/prepare/encode.h"
#include "data/prepare/inputs.h"
#include "data/prepare/publish.h"
#include "data/prepare/scan.h"
#include "data/prepare/select.h"
#include "data/prepare/work.h"
#include "data/prepare/workers.h"
#include "parallel/base/files.h"
#include "parallel/base/log.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

// A worker's ordinary need: buffers, one document of some megabytes, its tokens.
constexpr int64_t kMemoryOfThread = int64_t(32) << 20;
// Of the largest document: its line with escapes in a doubling buffer, its text, its tokens in a doubling
// vector, a shard.
constexpr int64_t kMemoryOfDocumentByte = 32;

void check_options(const PrepareOptions& o) {
  const auto check = [](bool ok, const char* what, const auto& found, const char* expected) {
    require(ok, ExitCode::kUsage, "{} is {}, expected {}", what, found, expected);
  };
  check(!o.inputs.empty(), "the list of inputs", "empty", "files or folders of .txt or .jsonl");
  check(!o.out.empty(), "--out", "empty", "a folder to write to");
  check(o.near_duplicates >= 0 && o.near_duplicates <= 1, "--near-duplicates", o.near_duplicates,
        "a similarity from 0 (off) to 1");
  check(o.min_chars >= 0, "--min-chars", o.min_chars, "0 or more");
  check(o.max_chars == 0 || o.max_chars >= o.min_chars, "--max-chars", o.max_chars,
        "0 (no limit) or at least --min-chars");
  check(o.valid_fraction >= 0 && o.valid_fraction < 1, "--valid-fraction", o.valid_fraction, "0 to below 1");
  check(o.threads >= 0 && o.threads <= 4096, "--threads", o.threads, "0 (all cores) to 4096");
  check(o.sample_bytes > 0, "--sample", o.sample_bytes, "more than 0 bytes");
  check(o.memory_bytes >= int64_t(128) << 20, "--memory", o.memory_bytes, "at least 128 MiB");
  check(o.shard_tokens > 0 && shard_memory(o.shard_tokens) <= static_cast<uint64_t>(o.memory_bytes) / 2,
        "--shard-tokens", o.shard_tokens, "1 or more, and at most a 32nd of --memory");
  check(o.text_field != o.domain_field && o.text_field != o.id_field && o.domain_field != o.id_field,
        "one field", "named twice", "different names for --text-field, --domain-field and --id-field");
}

// Everything that the output depends on. A work folder of another job is of no use to this one.
std::string describe_job(const PrepareOptions& o, const Inputs& inputs, const ReadOptions& read) {
  constexpr int kWorkVersion = 1;
  nlohmann::json job = {{"version", kWorkVersion},
                        {"fields", {o.text_field, o.domain_field, o.id_field}},
                        {"tokenizer", o.tokenizer},
                        {"vocab_size", o.vocab_size},
                        {"sample_bytes", o.sample_bytes},
                        {"near_duplicates", o.near_duplicates},
                        {"chars", {o.min_chars, o.max_chars}},
                        {"max_bytes", read.max_bytes},
                        {"valid_fraction", o.valid_fraction},
                        {"shard_tokens", o.shard_tokens}};
  if (o.tokenizer != "sentencepiece" && o.tokenizer != "bytes") {
    job["tokenizer_sha256"] = base::sha256_text(load_tokenizer(o.tokenizer)->definition());
  }
  for (const InputFile& f : inputs.files)
    job["files"].push_back({f.path.string(), f.size, f.mtime_ns, f.domain});
  for (const Unit& unit : inputs.units) {
    for (const Slice& s : unit.slices) job["slices"].push_back({s.file, s.begin, s.end});
    job["slices"].push_back(nullptr);
  }
  return job.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Keeps a second `cadre prepare` out of the same folder, until destroyed.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder)
      : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (fd_ < 0 || ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
    ::close(fd_);
    fail(ExitCode::kUsage, "another cadre prepare is writing to {}; wait for it or give another --out",
         folder.string());
  }
  ~FolderLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  require(!error, ExitCode::kData, "cannot make folder {}: {}", folder.string(), error.message());
}

// Rank 0: an empty work folder, or that of the same job, to go on with.
void open_work_folder(const Work& work) {
  const fs::path& out = work.options.out;
  require(work.options.force || !fs::exists(out / "manifest.json"), ExitCode::kUsage,
          "{} holds prepared data already; give --force to replace it, or another --out", out.string());
  const std::string job = describe_job(work.options, work.inputs, work.read);
  const fs::path file = work.folder / "job.json";
  if (fs::exists(file)) {
    if (base::read_file(file, ExitCode::kData) == job) {
      spdlog::info("going on with the unfinished work in {}", work.folder.string());
      return;
    }
    spdlog::warn("{} holds unfinished work of other inputs or options; starting again", work.folder.string());
  }
  std::error_code error;
  fs::remove_all(work.folder, error);
  require(!error, ExitCode::kData, "cannot empty {}: {}", work.folder.string(), error.message());
  make_folder(work.folder);
  make_folder(work.tokenizer_folder());
  make_folder(work.shard_folder());
  base::write_file_atomic(file, job, ExitCode::kData);
}

int choose_threads(const PrepareOptions& options) {
  const int wanted =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  const int64_t fit = options.memory_bytes / 2 / kMemoryOfThread;
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, fit)));
}

Work make_work(const PrepareOptions& options, comm::Communicator& comm) {
  Work work{options, {}, comm, choose_threads(options), options.out / ".work", {}};
  work.inputs = find_inputs(options.inputs, options.unit_bytes);
  work.read = {options.text_field, options.domain_field,
               options.id_field,   options.min_chars,
               options.max_chars,  static_cast<uint64_t>(options.memory_bytes / kMemoryOfDocumentByte)};
  return work;
}

// Logs how long each pass took.
class Stopwatch {
 public:
  explicit Stopwatch(PrepareResult& result) : result_(result), last_(std::chrono::steady_clock::now()) {}
  void lap(const char* pass) {
    const auto now = std::chrono::steady_clock::now();
    result_.seconds.emplace_back(pass, std::chrono::duration<double>(now - last_).count());
    last_ = now;
  }

 private:
  PrepareResult& result_;
  std::chrono::steady_clock::time_point last_;
};

Report finish_report(const Work& work, const Choices& choices, const Tokenizer& tokenizer,
                     const Manifest& manifest) {
  Report report = gather_report(work);
  report.counts[static_cast<size_t>(InputProblem::kExactDuplicate)] =
      choices.counts()[size_t(Choice::kExactDuplicate)];
  report.counts[static_cast<size_t>(InputProblem::kNearDuplicate)] =
      choices.counts()[size_t(Choice::kNearDuplicate)];
  report.tokenizer = fmt::format("{}, {} ids", tokenizer.kind(), tokenizer.vocab_size());
  if (work.trains_tokenizer() && tokenizer.vocab_size() < work.options.vocab_size) {
    report.notes.push_back(fmt::format("the sample has only {} pieces, fewer than the {} asked for",
                                       tokenizer.vocab_size(), work.options.vocab_size));
  }
  for (const DomainInfo& domain : manifest.split("valid").domains) {
    if (domain.documents > 0 || work.options.valid_fraction == 0) continue;
    report.notes.push_back(fmt::format(
        "no document of domain '{}' is held out; a larger --valid-fraction holds out more", domain.name));
  }
  return report;
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options, comm::World& world) {
  check_options(options);
  if (options.kind != SetKind::kText) return prepare_chat_set(options, world);
  const std::unique_ptr<comm::Communicator> comm = world.everyone("prepare");
  // Ranks wait for the slowest pass of others, which may take hours.
  comm->set_timeout(std::chrono::hours(24 * 7));
  PrepareResult result;
  Stopwatch watch(result);
  std::unique_ptr<FolderLock> lock;
  std::unique_ptr<Work> work;
  run_on_root(*comm, "prepare: folder", [&] {
    work = std::make_unique<Work>(make_work(options, *comm));
    make_folder(options.out);
    lock = std::make_unique<FolderLock>(options.out);
    open_work_folder(*work);
  });
  if (!work) work = std::make_unique<Work>(make_work(options, *comm));
  watch.lap("list");
  scan(*work);
  watch.lap("scan");
  select_documents(*work);
  const Choices choices(*work);
  watch.lap("select");
  const std::unique_ptr<Tokenizer> tokenizer = choose_tokenizer(*work);
  watch.lap("tokenizer");
  encode(*work, choices, *tokenizer);
  watch.lap("encode");
  result.manifest = assemble(*work, choices, *tokenizer);
  result.report = finish_report(*work, choices, *tokenizer, result.manifest);
  comm->barrier("prepare: assembled");
  run_on_root(*comm, "publish", [&] { publish(*work, *tokenizer, result.report, result.manifest); });
  result.manifest = load_manifest(options.out / "manifest.json");
  watch.lap("assemble");
  return result;
}

}  // namespace cadre::data
