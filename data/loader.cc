// Building batches from plans, in the step or ahead of it.
#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <variant>

#include "data/batch_rows.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// What a planned sequence reads: its segments, or of a pair both answers, whole.
std::vector<PlanSegment> pieces_of(const PlanSequence& sequence, const Corpus& corpus) {
  if (corpus.kind() != SetKind::kPreference) return sequence.segments;
  std::vector<PlanSegment> pieces;
  for (const PlanSegment& s : sequence.segments) {
    for (const int64_t document : {2 * s.document, 2 * s.document + 1})
      pieces.push_back({document, 0, corpus.document(document).length - 1});
  }
  return pieces;
}

void write_sequence(const PlanSequence& sequence, const Corpus& corpus, bool mask_documents, int64_t row,
                    Batch& batch) {
  auto at = static_cast<size_t>(row * batch.seq_len);
  const size_t begin = at;
  std::fill_n(batch.domain.begin() + row * batch.seq_len, batch.seq_len, sequence.domain);
  int32_t segment = 0;
  for (const PlanSegment& s : pieces_of(sequence, corpus)) {
    const auto count = static_cast<size_t>(s.count);
    require(at - begin + count <= static_cast<size_t>(batch.seq_len), ExitCode::kData,
            "a planned sequence is longer than seq_len {}", batch.seq_len);
    PiecePlace place{.at = at, .domain = sequence.domain, .document = s.document};
    if (mask_documents) {
      place.segment = segment;
    } else {  // attention and rotary positions run through the whole sequence
      place.position = static_cast<int32_t>(at - begin);
    }
    read_piece(corpus, s.begin, s.count, place, batch);
    at += count;
    ++segment;
  }
}

// Every rank counts the whole global batch. Where only some tokens are trained, it reads their masks.
BatchCounts global_counts(const BatchPlan& plan, const Corpus& corpus, std::vector<int64_t>& domain_tokens) {
  BatchCounts counts;
  const bool masked = corpus.kind() != SetKind::kText;
  if (masked) std::fill(domain_tokens.begin(), domain_tokens.end(), 0);
  std::vector<uint8_t> mask;
  for (const PlanSequence& sequence : plan.sequences) {
    int64_t real = 0, trained = 0;
    for (const PlanSegment& s : pieces_of(sequence, corpus)) {
      real += s.count;
      int64_t live = s.count;
      if (masked) {
        mask.resize(static_cast<size_t>(s.count));
        corpus.read_mask(s.document, s.begin + 1, mask);
        live = std::count(mask.begin(), mask.end(), 1);
      }
      trained += live;
      counts.trained_segments += live > 0;
    }
    counts.pairs += corpus.kind() == SetKind::kPreference && trained > 0;
    counts.trained_tokens += trained;
    counts.real_tokens += real;
    counts.sequences += real > 0;
    if (masked) domain_tokens[static_cast<size_t>(sequence.domain)] += trained;
  }
  return counts;
}

double ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

LoadedBatch build_batch(const BatchPlan& plan, const Corpus& corpus, const LoaderConfig& config) {
  LoadedBatch out;
  out.plan = plan;
  out.domain_tokens = plan.domain_tokens;
  out.counts = global_counts(plan, corpus, out.domain_tokens);
  for (const PlanSequence& s : plan.sequences)
    out.documents.push_back(s.segments.empty() ? -1 : s.segments.front().document);
  const auto total = static_cast<int64_t>(plan.sequences.size());
  const int64_t mine =
      (total + config.data_ranks - 1) / config.data_ranks;  // equal on all ranks, padding rows included
  for (int64_t first = 0; first < mine; first += config.micro_batch) {
    const int64_t rows = std::min(config.micro_batch, mine - first);
    Batch batch = empty_batch(rows, config.seq_len);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t index = (first + row) * config.data_ranks + config.data_rank;
      if (index >= total) continue;
      write_sequence(plan.sequences[static_cast<size_t>(index)], corpus, config.mask_documents, row, batch);
    }
    out.micro.push_back(part_of_rows(std::move(batch), config.part, config.parts));
  }
  return out;
}

struct Loader::Impl {
  LoaderConfig config;
  const Corpus& corpus;
  double wait_ms = 0;
  std::mutex mutex;
  std::condition_variable_any plan_ready, batch_ready;
  std::deque<BatchPlan> plans;                                        // guarded by mutex
  std::deque<std::variant<LoadedBatch, std::exception_ptr>> batches;  // guarded by mutex
  int64_t owed = 0;     // submitted and not yet handed out; the caller's thread only
  std::jthread thread;  // last, so that it ends before what it uses

  Impl(const LoaderConfig& c, const Corpus& source) : config(c), corpus(source) {}

  void read_ahead(std::stop_token stop) {
    for (;;) {
      BatchPlan plan;
      {
        std::unique_lock lock(mutex);
        if (!plan_ready.wait(lock, stop, [&] { return !plans.empty(); })) return;
        plan = std::move(plans.front());
        plans.pop_front();
      }
      std::variant<LoadedBatch, std::exception_ptr> result;
      try {
        result = build_batch(plan, corpus, config);
      } catch (...) {
        result = std::current_exception();
      }
      const std::lock_guard lock(mutex);
      batches.push_back(std::move(result));
      batch_ready.notify_one();
      if (std::holds_alternative<std::exception_ptr>(batches.back()))
        return;  // what follows could not be trained in order
    }
  }
};

Loader::Loader(const LoaderConfig& config, const Corpus& corpus)
    : impl_(std::make_unique<Impl>(config, corpus)) {
  require(config.micro_batch > 0 && config.seq_len > 0 && config.data_ranks > 0 && config.data_rank >= 0 &&
              config.data_rank < config.data_ranks && config.prefetch >= 0,
          ExitCode::kUsage, "loader: micro_batch {}, seq_len {}, rank {} of {}, prefetch {} cannot be",
          config.micro_batch, config.seq_len, config.data_rank, config.data_ranks, config.prefetch);
  if (config.prefetch > 0) {
    impl_->thread = std::jthread([impl = impl_.get()](std::stop_token stop) { impl->read_ahead(stop); });
  }
}
Loader::~Loader() = default;

void Loader::submit(BatchPlan plan) {
  ++impl_->owed;
  const std::lock_guard lock(impl_->mutex);
  impl_->plans.push_back(std::move(plan));
  impl_->plan_ready.notify_one();
}

LoadedBatch Loader::next() {
  Impl& s = *impl_;
  if (s.owed == 0) throw std::logic_error("Loader::next() without a submitted plan");
  const auto begin = std::chrono::steady_clock::now();
  if (s.config.prefetch == 0) {
    LoadedBatch batch = build_batch(s.plans.front(), s.corpus, s.config);
    s.plans.pop_front();
    --s.owed;
    s.wait_ms = ms_since(begin);
    return batch;
  }
  std::unique_lock lock(s.mutex);
  s.batch_ready.wait(lock, [&] { return !s.batches.empty(); });
  // The thread ended with its error: it stays, so that every later call reports it instead of waiting for
  // ever.
  if (const auto* error = std::get_if<std::exception_ptr>(&s.batches.front())) std::rethrow_exception(*error);
  LoadedBatch batch = std::get<LoadedBatch>(std::move(s.batches.front()));
  s.batches.pop_front();
  --s.owed;
  s.wait_ms = ms_since(begin);
  return batch;
}

double Loader::last_wait_ms() const {
  return impl_->wait_ms;
}

}  // namespace cadre::data
