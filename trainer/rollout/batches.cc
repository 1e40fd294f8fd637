#include "trainer/rollout/batches.h"

#include <algorithm>

#include "data/batch_rows.h"
#include "parallel/base/errors.h"

namespace cadre::trainer {
namespace {

struct Place {
  size_t rollout;
  int64_t begin;  // in its row
};
using Row = std::vector<Place>;

int64_t inputs(const Rollout& r) {
  return int64_t(r.tokens.size()) - 1;
}

struct Rows {
  std::vector<Row> rows;
  int64_t width = 1;  // of the fullest
};

// In order, a new row when the next sequence does not fit.
Rows place(std::span<const Rollout> rollouts, const RolloutBatchShape& shape) {
  Rows out;
  int64_t used = 0;
  for (size_t i = 0; i < rollouts.size(); ++i) {
    const int64_t count = inputs(rollouts[i]);
    require(count <= shape.seq_len, ExitCode::kData, "a sampled sequence has {} tokens, data.seq_len is {}",
            count + 1, shape.seq_len);
    if (out.rows.empty() || !shape.pack || used + count > shape.seq_len) {
      out.rows.emplace_back();
      used = 0;
    }
    out.rows.back().push_back({i, used});
    used += count;
    out.width = std::max(out.width, used);
  }
  return out;
}

// Calls body(micro, row of it, places) for this rank's rows; the number of micro-batches is the same on all ranks.
template <class Body>
void for_each_row(const Rows& all, const RolloutBatchShape& shape, const Body& body) {
  const int64_t total = int64_t(all.rows.size()), mine = (total + shape.data_ranks - 1) / shape.data_ranks;
  static const Row kNone;
  for (int64_t i = 0; i < mine; ++i) {
    const int64_t index = i * shape.data_ranks + shape.data_rank;
    body(size_t(i / shape.micro_batch), i % shape.micro_batch,
         index < total ? all.rows[size_t(index)] : kNone);
  }
}

void grow(Batch& b, int64_t width, size_t routing_width) {
  ++b.num_sequences;
  b.seq_len = width;
  const size_t n = size_t(b.num_tokens());
  b.tokens.resize(n, 0);
  b.targets.resize(n, 0);
  b.loss_mask.resize(n, 0);
  b.segment.resize(n, -1);
  b.position.resize(n, 0);
  b.domain.resize(n, 0);
  b.document.resize(n, -1);
  b.logp_rollout.resize(n, 0);
  b.logp_old.resize(n, 0);
  b.routing.resize(n * routing_width, kNoExpert);
}

void write(const Rollout& r, int32_t segment, size_t at, size_t routing_width, Batch& b) {
  data::write_piece(r.tokens, {}, {.at = at, .segment = segment, .domain = r.domain, .document = r.document},
                    b);
  const size_t prompt = size_t(r.prompt_length), count = r.tokens.size() - 1;
  for (size_t i = 0; i < count; ++i) {
    if (i + 1 < prompt) continue;
    const size_t t = i + 1 - prompt;
    b.loss_mask[at + i] = r.masked ? 0 : 1;
    b.logp_rollout[at + i] = r.logp[t];
    if (!r.logp_old.empty()) b.logp_old[at + i] = r.logp_old[t];
  }
  if (routing_width > 0)
    std::copy(r.routing.begin(), r.routing.end(), b.routing.begin() + long(at * routing_width));
  b.advantage.push_back(r.advantage);
}

void count(std::span<const Rollout> rollouts, const Rows& rows, data::LoadedBatch& out) {
  for (const Rollout& r : rollouts) {
    const int64_t live = r.masked ? 0 : r.response_length();
    out.counts.trained_tokens += live;
    out.counts.real_tokens += inputs(r);
    out.counts.trained_segments += live > 0;
    out.domain_tokens[size_t(r.domain)] += live;
  }
  out.counts.sequences = int64_t(rows.rows.size());
}

// Choices of a token; the same for all, as they come from one model.
size_t routing_width(std::span<const Rollout> rollouts, const RolloutBatchShape& shape) {
  if (!shape.routing || rollouts.empty()) return 0;
  return rollouts.front().routing.size() / size_t(inputs(rollouts.front()));
}

}  // namespace

data::LoadedBatch make_rollout_batch(std::span<const Rollout> rollouts, const RolloutBatchShape& shape) {
  data::LoadedBatch out;
  out.domain_tokens.assign(size_t(shape.num_domains), 0);
  const Rows rows = place(rollouts, shape);
  const size_t width = routing_width(rollouts, shape);
  for_each_row(rows, shape, [&](size_t micro, int64_t row, const Row& places) {
    if (row == 0) out.micro.emplace_back();
    Batch& batch = out.micro[micro];
    grow(batch, rows.width, width);
    for (size_t s = 0; s < places.size(); ++s)
      write(rollouts[places[s].rollout], int32_t(s), size_t(row * rows.width + places[s].begin), width,
            batch);
  });
  count(rollouts, rows, out);
  return out;
}

void for_each_response(std::span<const Rollout> rollouts, const RolloutBatchShape& shape,
                       const std::function<void(size_t, int64_t, size_t)>& body) {
  const Rows rows = place(rollouts, shape);
  for_each_row(rows, shape, [&](size_t micro, int64_t row, const Row& places) {
    for (const Place& p : places)
      body(micro, row * rows.width + p.begin + rollouts[p.rollout].prompt_length - 1, p.rollout);
  });
}

}  // namespace cadre::trainer
