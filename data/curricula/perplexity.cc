#include "data/curricula/perplexity.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace cadre::data {

ReferencePair read_references(base::Section& section) {
  ReferencePair r;
  r.weak = section.text("weak", r.weak);
  r.strong = section.text("strong", r.strong);
  r.min_tokens = section.integer("min_tokens", r.min_tokens, {.min = 1});
  return r;
}

PerplexityScores perplexity_scores(const ReferencePair& references, const Corpus& units) {
  const Scores weak = units.scores(references.weak), strong = units.scores(references.strong);
  const std::vector<double>&tokens = strong.column("tokens"), &nats = strong.column("nats"),
        &weak_nats = weak.column("nats");
  PerplexityScores out;
  for (size_t d = 0; d < tokens.size(); ++d) {
    const bool enough = tokens[d] >= double(references.min_tokens);
    const double none = std::numeric_limits<double>::quiet_NaN();
    // 1 - PPL_strong / PPL_weak, without perplexities that overflow.
    const double difference = -std::expm1((nats[d] - weak_nats[d]) / std::max(1.0, tokens[d]));
    out.loss.push_back(enough ? nats[d] / tokens[d] : none);
    out.difference.push_back(enough ? std::clamp(difference, -1.0, 1.0) : none);
  }
  return out;
}

}  // namespace cadre::data
