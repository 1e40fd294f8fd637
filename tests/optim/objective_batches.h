// Sequences with everything that an objective may ask for, and the ways to put them into batches.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "optim/objective.h"
#include "parallel/base/rng.h"

namespace cadre::optim::testing {

struct Sequence {
  int64_t group = 0;
  double reward = 0;
  std::vector<int> mask;
  std::vector<double> logp, old, rollout, reference;
};

// Lengths 1 to 9 in groups of three, one row without live tokens, holes in the masks, NaN where masked. The policies
// differ by up to `spread` a token.
inline std::vector<Sequence> random_sequences(int count, double spread, uint64_t seed = 1) {
  const base::Philox rng(seed);
  uint64_t draw = 0;
  std::vector<Sequence> all;
  for (int s = 0; s < count; ++s) {
    Sequence q{.group = s / 3,
               .reward = double(rng.bits(++draw) % 3) / 2,
               .mask = {},
               .logp = {},
               .old = {},
               .rollout = {},
               .reference = {}};
    const int length = 1 + int(rng.bits(++draw) % 9);
    for (int t = 0; t < length; ++t) {
      const bool live = s != 1 && (length == 1 || rng.uniform(++draw) < 0.75);
      q.mask.push_back(live);
      const double base = -3 * rng.uniform(++draw) - 2 * spread - 0.1;
      for (auto* v : {&q.logp, &q.old, &q.rollout, &q.reference}) {
        const double x = base + spread * (2 * rng.uniform(++draw) - 1);
        v->push_back(live ? x : std::numeric_limits<double>::quiet_NaN());
      }
    }
    all.push_back(q);
  }
  return all;
}

inline int64_t live_tokens(const Sequence& s) {
  int64_t n = 0;
  for (int m : s.mask) n += m;
  return n;
}

inline BatchCounts count(const std::vector<Sequence>& all) {
  BatchCounts counts;
  for (size_t i = 0; i < all.size(); ++i) {
    counts.trained_tokens += live_tokens(all[i]);
    counts.trained_segments += live_tokens(all[i]) > 0;
    if (i % 2 == 1) counts.pairs += live_tokens(all[i - 1]) + live_tokens(all[i]) > 0;
  }
  counts.real_tokens = counts.sequences = 1;
  return counts;
}

// A batch, its log-probabilities, and where each sequence stands in it.
struct Packed {
  Batch batch;
  std::vector<double> logp;
  std::vector<size_t> start;  // by sequence, of [first, last)
};

// Sequences [first, last) into rows of seq_len, `per_row` of them a row (they must fit), padding behind.
inline Packed pack(const std::vector<Sequence>& all, const std::vector<double>& advantage, size_t first,
                   size_t last, size_t per_row, int64_t seq_len) {
  Packed p;
  p.batch.seq_len = seq_len;
  for (size_t s = first; s < last; s += per_row) {
    int32_t segment = 0;
    size_t used = 0;
    for (size_t k = s; k < std::min(s + per_row, last); ++k, ++segment) {
      p.start.push_back(p.logp.size());
      p.batch.advantage.push_back(advantage[k]);
      for (size_t t = 0; t < all[k].mask.size(); ++t, ++used) {
        p.batch.loss_mask.push_back(float(all[k].mask[t]));
        p.batch.segment.push_back(segment);
        p.logp.push_back(all[k].logp[t]);
        p.batch.logp_old.push_back(all[k].old[t]);
        p.batch.logp_rollout.push_back(all[k].rollout[t]);
        p.batch.logp_reference.push_back(all[k].reference[t]);
      }
    }
    for (; used < size_t(seq_len); ++used) {
      p.batch.loss_mask.push_back(0);
      p.batch.segment.push_back(-1);
      for (auto* v : {&p.logp, &p.batch.logp_old, &p.batch.logp_rollout, &p.batch.logp_reference})
        v->push_back(NAN);
    }
    ++p.batch.num_sequences;
  }
  return p;
}

inline double run(Objective<double>& objective, const Packed& p, const BatchCounts& counts,
                  std::vector<double>& dlogp) {
  dlogp.assign(p.logp.size(), 99.0);
  const std::array<int64_t, 1> shape = {int64_t(p.logp.size())};
  return objective.loss_and_grad({p.logp.data(), shape}, p.batch, counts, {dlogp.data(), shape});
}

inline std::unique_ptr<Objective<double>> make(const std::string& yaml) {
  return make_objective<double>(base::parse_run_text(yaml, "test.yaml", {}));
}

}  // namespace cadre::optim::testing
