#include "trainer/selection/score_job.h"

#include <algorithm>
#include <cmath>

#include "data/manifest.h"
#include "data/scores.h"
#include "parallel/base/files.h"
#include "trainer/run/checkpoint_folder.h"
#include "trainer/run/initial_model.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using Columns = std::vector<std::vector<double>>;

constexpr int64_t kGroup = 16;  // documents that one rank scores together; even, so that pairs stay together

// One shard's documents within the split, and its file.
struct ShardTask {
  const data::ShardInfo* shard;
  int64_t first;
  fs::path file;
};

// Shards without a file. Throws when a file is there that these scores do not continue.
std::vector<ShardTask> tasks_of(const data::Manifest& manifest, const data::Split& split, const ScoreJob& job,
                                const data::ScoreHeader& header, int64_t& skipped) {
  std::vector<ShardTask> tasks;
  int64_t first = 0;
  for (const data::ShardInfo& shard : split.shards) {
    const fs::path file = data::score_file(manifest, job.name, shard.file);
    if (const auto found = data::read_score_header(file)) {
      require(found->shard_sha256 == shard.sha256 && found->model == header.model &&
                  found->settings == header.settings,
              ExitCode::kUsage,
              "{} was made from another {}; give another --name, or remove {} and start again", file.string(),
              found->shard_sha256 != shard.sha256 ? "shard"
              : found->model != header.model      ? "model"
                                                  : "set of options",
              file.parent_path().string());
      ++skipped;
    } else {
      tasks.push_back({&shard, first, file});
    }
    first += shard.documents;
  }
  return tasks;
}

// All ranks score their groups of the shard; every rank gets all.
Columns score_shard(ScoreKind& kind, const ShardTask& task, comm::Communicator& ranks) {
  const size_t columns = kind.columns().size(), documents = size_t(task.shard->documents);
  std::vector<double> all(columns * documents, 0.0);
  std::string error;
  ExitCode code = ExitCode::kData;
  try {
    for (int64_t begin = ranks.rank() * kGroup; begin < int64_t(documents); begin += ranks.size() * kGroup) {
      const int64_t end = std::min(begin + kGroup, int64_t(documents));
      const Columns part = kind.score(task.first + begin, task.first + end);
      for (size_t c = 0; c < columns; ++c)
        std::copy(part[c].begin(), part[c].end(), all.begin() + int64_t(c * documents) + begin);
    }
  } catch (const Error& e) {
    error = e.what();
    code = e.code();
  }
  ranks.agree(error, code, "scores of a shard");
  ranks.all_reduce(std::span<double>(all), comm::ReduceOp::kSum, "scores of a shard");
  Columns out;
  for (size_t c = 0; c < columns; ++c)
    out.emplace_back(all.begin() + int64_t(c * documents), all.begin() + int64_t((c + 1) * documents));
  return out;
}

// Sums for the summary, added up over shards.
struct Totals {
  std::vector<double> sum, squares, least, most;
  void add(const Columns& values) {
    sum.resize(values.size(), 0.0);
    squares.resize(values.size(), 0.0);
    least.resize(values.size(), INFINITY);
    most.resize(values.size(), -INFINITY);
    for (size_t c = 0; c < values.size(); ++c) {
      for (const double x : values[c]) {
        sum[c] += x, squares[c] += x * x;
        least[c] = std::min(least[c], x), most[c] = std::max(most[c], x);
      }
    }
  }
  void fill(ScoreSummary& s) const {
    const double n = double(std::max<int64_t>(1, s.documents));
    for (size_t c = 0; c < sum.size(); ++c) {
      s.mean.push_back(sum[c] / n);
      s.deviation.push_back(std::sqrt(std::max(0.0, squares[c] / n - s.mean[c] * s.mean[c])));
    }
    s.least = least;
    s.most = most;
  }
};

// What a job reads: the checkpoint, the documents and the targets, all of one tokenizer.
struct JobInputs {
  JobInputs(const ScoreJob& job, comm::World& world, comm::Communicator& ranks);
  JobInputs(const JobInputs&) = delete;
  JobInputs& operator=(const JobInputs&) = delete;
  ScoreInputs inputs(const ScoreOptions& options, comm::World& alone) {
    return {.options = &options,
            .config = &config,
            .reader = &reader,
            .corpus = corpus.get(),
            .targets = targets.get(),
            .tokenizer = manifest.folder / manifest.tokenizer_file,
            .world = &alone};
  }

  fs::path folder;
  TensorReader reader;
  RunConfig config;
  data::Manifest manifest, target_manifest;
  std::unique_ptr<data::Corpus> corpus, targets;  // no targets: null
};

JobInputs::JobInputs(const ScoreJob& job, comm::World& world, comm::Communicator& ranks)
    : folder(find_checkpoint(job.checkpoint, ranks)),
      reader(folder),
      config(checkpoint_config(reader.index(), folder)) {
  config.mesh = {};
  config.threads = threads_per_rank(config, world.local_size());
  manifest = data::load_manifest(job.manifest.empty() ? config.data.manifest : job.manifest);
  corpus = data::open_corpus(manifest, job.split, data::Verify::kAlways);
  require(same_tokenizer(reader.index(), folder, manifest.folder / manifest.tokenizer_file), ExitCode::kData,
          "{} was made with another tokenizer than {}; prepare the text with --tokenizer", folder.string(),
          manifest.folder.string());
  target_manifest = job.options.targets.empty() ? manifest : data::load_manifest(job.options.targets);
  require(target_manifest.tokenizer_sha256 == manifest.tokenizer_sha256, ExitCode::kData,
          "--targets {} was prepared with another tokenizer than the data", job.options.targets);
  for (const data::Split& s : target_manifest.splits) {
    if (s.name == job.options.target_split)
      targets = data::open_corpus(target_manifest, s.name, data::Verify::kAlways);
  }
}

data::ScoreHeader header_of(const ScoreJob& job, const ScoreKindRow& row, const JobInputs& in) {
  return {
      "",
      in.manifest.tokenizer_sha256,
      base::sha256_file(in.folder / kIndexFile),
      fmt::format("kind: {}, seq_len: {}{}{}", row.name, in.config.data.seq_len, row.settings(job.options),
                  job.options.targets.empty() ? "" : ", " + in.target_manifest.hash),
      {}};
}

// Rank 0 writes; a failure is every rank's.
void write_shard(const ShardTask& task, data::ScoreHeader& header, const Columns& values,
                 comm::Communicator& ranks) {
  std::string error;
  if (ranks.rank() == 0) {
    try {
      header.shard_sha256 = task.shard->sha256;
      data::write_scores(task.file, header, values);
    } catch (const Error& e) {
      error = e.what();
    }
  }
  ranks.agree(error, ExitCode::kData, "write scores");
}

}  // namespace

ScoreSummary score_documents(const ScoreJob& requested, comm::World& world,
                             const std::function<void(const std::string&)>& progress) {
  ScoreJob job = requested;
  if (job.name.empty()) job.name = job.options.kind;
  const ScoreKindRow& row = find_score_kind(job.options.kind);
  const auto ranks = world.everyone("score");
  JobInputs in(job, world, *ranks);
  data::ScoreHeader header = header_of(job, row, in);
  ScoreSummary summary;
  summary.name = job.name;
  summary.model = header.model;
  const std::vector<ShardTask> tasks =
      tasks_of(in.manifest, in.manifest.split(job.split), job, header, summary.skipped);
  if (tasks.empty()) return summary;
  comm::run_threads(1, [&](comm::World& alone) {
    const auto kind = row.make(in.inputs(job.options, alone));
    header.columns = summary.columns = kind->columns();
    Totals totals;
    for (const ShardTask& task : tasks) {
      const Columns values = score_shard(*kind, task, *ranks);
      write_shard(task, header, values, *ranks);
      totals.add(values);
      ++summary.shards;
      summary.documents += task.shard->documents;
      if (ranks->rank() == 0)
        progress(fmt::format("{}: {} documents", task.file.string(), task.shard->documents));
    }
    totals.fill(summary);
  });
  return summary;
}

}  // namespace cadre::trainer
