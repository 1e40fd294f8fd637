// Planner: weights -> sequences by domain -> by bucket -> documents.
#include "data/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/planner/apportion.h"
#include "data/planner/interleave.h"
#include "data/planner/stream.h"
#include "parallel/base/errors.h"
#include "parallel/base/json_whole.h"
#include "parallel/base/rng.h"

namespace cadre::data {
namespace {

using nlohmann::json;
using Counts = std::vector<int64_t>;

int64_t saturating_sum(const Counts& values) {
  int64_t sum = 0;
  for (const int64_t v : values)
    sum = v == Stream::kUnlimited || sum == Stream::kUnlimited ? Stream::kUnlimited : sum + v;
  return sum;
}

void check_weights(const std::vector<double>& weights, size_t expected, const char* whose) {
  double sum = 0;
  bool valid = weights.size() == expected;
  for (const double w : weights) {
    valid = valid && std::isfinite(w) && w >= 0;
    sum += w;
  }
  require(valid && std::abs(sum - 1) < 1e-6, ExitCode::kNumeric,
          "the {} gave {} weights with sum {}; expected {} finite ones, none negative, with sum 1", whose,
          weights.size(), sum, expected);
}

const char* shuffle_of(const PlannerConfig& config) {
  return config.pieces ? "pieces" : "documents";
}

}  // namespace

struct Planner::Impl {
  PlannerConfig config;
  const Curriculum& curriculum;
  size_t domains, buckets;
  std::vector<std::string> names;
  int64_t documents;
  std::string selection;
  std::vector<Stream> streams;       // (K * buckets), bucket fastest
  uint64_t batches = 0;              // planned so far
  Counts error;                      // (K) carried, units of 2^-32 sequences
  std::vector<Counts> bucket_error;  // (K, buckets)

  Impl(const PlannerConfig& c, const Corpus& corpus, const Curriculum& order) : config(c), curriculum(order) {
    domains = static_cast<size_t>(corpus.num_domains());
    buckets = static_cast<size_t>(curriculum.num_buckets());
    documents = corpus.num_documents();
    selection = corpus.selection();
    require(!(config.pieces && config.whole), ExitCode::kUsage,
            "documents that must stay whole cannot be shuffled in pieces");
    require(documents > 0 && domains > 0, ExitCode::kData, "the corpus has no documents; prepare some data");
    require(documents <= int64_t(std::numeric_limits<uint32_t>::max()), ExitCode::kData,
            "the corpus has {} documents, the planner takes at most 2^32 - 1; join short documents",
            documents);
    std::vector<std::vector<uint32_t>> members(domains * buckets);
    for (int64_t d = 0; d < documents; ++d) {
      const size_t bucket = static_cast<size_t>(curriculum.bucket(d));
      require(bucket < buckets, ExitCode::kData, "the curriculum put document {} into bucket {}, it has {}",
              d, bucket, buckets);
      members[size_t(corpus.document(d).domain) * buckets + bucket].push_back(static_cast<uint32_t>(d));
    }
    for (size_t s = 0; s < members.size(); ++s) {
      streams.emplace_back(std::move(members[s]), corpus, config,
                           base::mix(config.seed, base::mix(base::hash_name("stream"), s)));
    }
    for (size_t k = 0; k < domains; ++k) names.push_back(corpus.domain_name(static_cast<int>(k)));
    error.assign(domains, 0);
    bucket_error.assign(domains, Counts(buckets, 0));
  }

  Counts available(size_t domain) const {
    Counts out;
    for (size_t b = 0; b < buckets; ++b) out.push_back(streams[domain * buckets + b].available());
    return out;
  }

  int64_t tokens_drawn(size_t domain) const {
    int64_t sum = 0;
    for (size_t b = 0; b < buckets; ++b) sum += streams[domain * buckets + b].state().tokens;
    return sum;
  }

  // A domain's progress is the part that it has drawn of what it will draw if its weight stays as it is.
  double progress(size_t domain, double weight) const {
    int64_t epoch = 0, all = 0;
    for (size_t b = 0; b < buckets; ++b) epoch += streams[domain * buckets + b].epoch_tokens();
    for (size_t k = 0; k < domains; ++k) all += tokens_drawn(k);
    const double drawn = double(tokens_drawn(domain));
    const double planned = config.total_tokens > 0
                               ? drawn + weight * double(std::max<int64_t>(0, config.total_tokens - all))
                               : double(epoch);
    return planned > 0 ? std::min(1.0, drawn / planned) : 1.0;
  }

  Counts domain_counts(const std::vector<double>& weights) {
    check_weights(weights, domains, "mixer");
    Counts room;
    for (size_t k = 0; k < domains; ++k) room.push_back(saturating_sum(available(k)));
    const auto counts = apportion(config.global_batch, weight_units(weights), room, error);
    if (counts) return *counts;
    std::string spent;
    for (size_t k = 0; k < domains; ++k) {
      if (room[k] == 0) spent += (spent.empty() ? "" : ", ") + names[k];
    }
    fail(ExitCode::kData,
         "batch {} cannot be filled: {} sequences wanted, but the domains with weight are near or at the cap "
         "of {} epochs "
         "(spent: {}). Raise mixer.max_epochs, lower train.steps or train.global_batch, or prepare more data",
         batches, config.global_batch, config.max_epochs, spent.empty() ? "none" : spent);
  }

  // Divides a domain's sequences among its buckets. When those with quota are spent, the others get a little,
  // which is then all that counts.
  Counts bucket_counts(size_t domain, int64_t count, double weight) {
    const std::vector<double> quota = curriculum.quota(progress(domain, weight), static_cast<int>(domain));
    check_weights(quota, buckets, "curriculum");
    Counts& carried = bucket_error[domain];
    const Counts room = available(domain);
    if (auto counts = apportion(count, weight_units(quota), room, carried)) return *counts;
    std::vector<double> mixed;
    for (const double q : quota) mixed.push_back(0.999 * q + 0.001 / double(buckets));
    return apportion(count, weight_units(mixed), room, carried).value();
  }
};

Planner::Planner(const PlannerConfig& config, const Corpus& corpus, const Curriculum& curriculum)
    : impl_(std::make_unique<Impl>(config, corpus, curriculum)) {}
Planner::~Planner() = default;

BatchPlan Planner::next(const std::vector<double>& weights) {
  Impl& s = *impl_;
  BatchPlan plan;
  plan.domain_sequences = s.domain_counts(weights);
  plan.domain_tokens.assign(s.domains, 0);
  Counts stream_counts;
  for (size_t k = 0; k < s.domains; ++k) {
    const Counts counts = s.bucket_counts(k, plan.domain_sequences[k], weights[k]);
    stream_counts.insert(stream_counts.end(), counts.begin(), counts.end());
  }
  const uint64_t key = base::mix(base::mix(s.config.seed, base::hash_name("interleave")), s.batches);
  for (const int stream : interleave(stream_counts, key)) {
    const size_t domain = static_cast<size_t>(stream) / s.buckets;
    plan.sequences.push_back(s.streams[static_cast<size_t>(stream)].draw(static_cast<int>(domain)));
    for (const PlanSegment& segment : plan.sequences.back().segments)
      plan.domain_tokens[domain] += segment.count;
  }
  ++s.batches;
  return plan;
}

nlohmann::json Planner::save() const {
  const Impl& s = *impl_;
  json streams = json::array();
  for (const Stream& stream : s.streams) {
    const StreamState& t = stream.state();
    json& numbers = streams.emplace_back(json{t.epoch, t.cursor, t.offset, t.tokens, t.sequences});
    if (s.config.pieces) numbers.push_back(t.full);
  }
  return {{"seed", s.config.seed},
          {"seq_len", s.config.seq_len},
          {"pack", s.config.pack},
          {"shuffle", shuffle_of(s.config)},
          {"documents", s.documents},
          {"batches", s.batches},
          {"error", s.error},
          {"bucket_error", s.bucket_error},
          {"streams", std::move(streams)},
          {"selection", s.selection}};
}

void Planner::load(const nlohmann::json& state) try {
  Impl& s = *impl_;
  const auto same = [&](const char* key, const json& mine) {
    require(state.at(key) == mine, ExitCode::kCheckpoint,
            "the checkpoint's planner has {} {}, this run {}. Resume with the same data and settings, or "
            "start a new run",
            key, state.at(key).dump(), mine.dump());
  };
  // Checkpoints from before there were pieces say nothing of them.
  const std::string shuffle = state.value("shuffle", "documents"), mine = shuffle_of(s.config);
  require(shuffle == mine, ExitCode::kCheckpoint,
          "the checkpoint was planned with data.shuffle: {0}, this run has {1}. Resume with data.shuffle: "
          "{0}, or start a new run",
          shuffle, mine);
  same("seed", s.config.seed);
  same("seq_len", s.config.seq_len);
  same("pack", s.config.pack);
  same("documents", s.documents);
  if (state.contains("selection")) same("selection", s.selection);
  const auto counts = [](const json& list) { return base::wholes<int64_t>(list, ExitCode::kCheckpoint); };
  const Counts error = counts(state.at("error"));
  std::vector<Counts> bucket_error;
  for (const json& list : state.at("bucket_error")) bucket_error.push_back(counts(list));
  bool fits = error.size() == s.domains && bucket_error.size() == s.domains &&
              state.at("streams").size() == s.streams.size();
  for (const Counts& e : bucket_error) fits = fits && e.size() == s.buckets;
  std::vector<Stream> streams = s.streams;
  for (size_t i = 0; fits && i < streams.size(); ++i) {
    const Counts t = counts(state.at("streams").at(i));
    fits = t.size() == (s.config.pieces ? 6 : 5) && t[0] >= 0 && t[1] >= 0 && t.back() >= 0 &&
           streams[i].restore(
               {uint64_t(t[0]), uint64_t(t[1]), t[2], t[3], t[4], s.config.pieces ? uint64_t(t[5]) : 0});
  }
  require(fits, ExitCode::kCheckpoint,
          "the checkpoint's planner state does not fit this corpus of {} documents in {} domains; resume "
          "with the data that "
          "the run began with",
          s.documents, s.domains);
  s.batches = base::whole<decltype(s.batches)>(state.at("batches"), ExitCode::kCheckpoint);
  s.streams = std::move(streams);
  s.error = error;
  s.bucket_error = bucket_error;
} catch (const json::exception& e) {
  fail(ExitCode::kCheckpoint, "the checkpoint's planner state cannot be read: {}", e.what());
}

}  // namespace cadre::data
