#include "trainer/run/baselines.h"

#include <algorithm>
#include <cmath>

namespace cadre::trainer {

NgramBaselines::NgramBaselines(const data::Corpus& train, int64_t vocab)
    : vocab_(vocab), count_(size_t(vocab)), context_count_(size_t(vocab)), followers_(size_t(vocab)) {
  std::vector<int32_t> tokens;
  for (int64_t d = 0; d < train.num_documents(); ++d) {
    tokens.resize(size_t(train.document(d).length));
    train.read(d, 0, tokens);
    for (size_t i = 1; i < tokens.size(); ++i) {
      ++count_[size_t(tokens[i])];
      ++context_count_[size_t(tokens[i - 1])];
      ++total_;
      ++pairs_[uint64_t(tokens[i - 1]) * uint64_t(vocab_) + uint64_t(tokens[i])];
    }
  }
  double once = 0, twice = 0;
  for (const auto& [pair, count] : pairs_) {  // sums of ones: the order does not matter
    ++followers_[size_t(pair / uint64_t(vocab_))];
    once += count == 1;
    twice += count == 2;
  }
  discount_ = once > 0 ? once / (once + 2 * twice) : 0.5;
}

double NgramBaselines::unigram_logp(int32_t token) const {
  return std::log((count_[size_t(token)] + 1) / (total_ + double(vocab_)));
}

double NgramBaselines::bigram_logp(int32_t previous, int32_t token) const {
  const double context = context_count_[size_t(previous)];
  if (context == 0) return unigram_logp(token);
  const auto pair = pairs_.find(uint64_t(previous) * uint64_t(vocab_) + uint64_t(token));
  const double seen = pair == pairs_.end() ? 0 : std::max(double(pair->second) - discount_, 0.0);
  return std::log((seen + discount_ * followers_[size_t(previous)] * std::exp(unigram_logp(token))) /
                  context);
}

template <class LogProb>
std::vector<DomainScore> NgramBaselines::run(const data::Corpus& corpus, const EvalSet& set,
                                             const LogProb& logp) const {
  std::vector<double> nats(size_t(corpus.num_domains()), 0.0);
  std::vector<int32_t> tokens;
  for (int64_t d : set.documents) {
    const data::DocumentInfo info = corpus.document(d);
    tokens.resize(size_t(info.length));
    corpus.read(d, 0, tokens);
    for (size_t i = 1; i < tokens.size(); ++i) nats[size_t(info.domain)] -= logp(tokens[i - 1], tokens[i]);
  }
  return score(corpus, set, nats);
}

std::vector<DomainScore> NgramBaselines::unigram(const data::Corpus& corpus, const EvalSet& set) const {
  return run(corpus, set, [&](int32_t, int32_t token) { return unigram_logp(token); });
}
std::vector<DomainScore> NgramBaselines::bigram(const data::Corpus& corpus, const EvalSet& set) const {
  return run(corpus, set, [&](int32_t previous, int32_t token) { return bigram_logp(previous, token); });
}

}  // namespace cadre::trainer
