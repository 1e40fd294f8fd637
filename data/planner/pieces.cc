#include "data/planner/pieces.h"

#include <algorithm>
#include <cassert>

namespace cadre::data {

Pieces::Pieces(std::vector<uint32_t> documents, const Corpus& corpus, const PlannerConfig& config)
    : corpus_(&corpus), seq_len_(config.seq_len), cut_(config.pieces) {
  for (const uint32_t d : documents) {
    const int64_t n = positions(d), full = cut_ ? n / seq_len_ : 0, rest = n - full * seq_len_;
    tokens_ += n;
    rest_tokens_ += rest;
    sequences_ += (n + seq_len_ - 1) / seq_len_;
    if (full > 0) {
      long_.push_back(d);
      full_before_.push_back(num_full_);
      num_full_ += static_cast<uint64_t>(full);
    }
    if (cut_ && rest > 0) rests_.push_back(d);
  }
  if (!cut_) rests_ = std::move(documents);
  long_.shrink_to_fit();
  full_before_.shrink_to_fit();
  rests_.shrink_to_fit();
}

int64_t Pieces::positions(int64_t document) const {
  return corpus_->document(document).length - 1;
}

PlanSegment Pieces::full(uint64_t index) const {
  assert(index < num_full_);
  const auto after = std::upper_bound(full_before_.begin(), full_before_.end(), index);
  const auto at = static_cast<size_t>(after - full_before_.begin()) - 1;
  return {long_[at], static_cast<int64_t>(index - full_before_[at]) * seq_len_, seq_len_};
}

PlanSegment Pieces::rest(uint64_t index) const {
  const int64_t document = rests_[index], n = positions(document), count = cut_ ? n % seq_len_ : n;
  return {document, n - count, count};
}

}  // namespace cadre::data
