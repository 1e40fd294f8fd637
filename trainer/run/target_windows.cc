#include "trainer/run/target_windows.h"

#include <algorithm>

namespace cadre::trainer {

TargetWindows::TargetWindows(const data::Corpus& corpus, const InfluenceTarget& target,
                             const RunConfig& config)
    : corpus_(corpus),
      rows_per_probe_((config.influence.tokens_per_probe + config.data.seq_len - 1) / config.data.seq_len),
      seq_len_(config.data.seq_len) {
  for (size_t k = 0; k < target.token_weight.size(); ++k) {
    std::vector<int64_t> documents;
    for (const int64_t d : target.documents) {
      if (size_t(corpus.document(d).domain) == k) documents.push_back(d);
    }
    DocumentRows rows(corpus, documents, seq_len_, config.data.mask_documents);
    const double weight = target.token_weight[k] * double(rows.trained_tokens());
    if (weight > 0) domains_.push_back({std::move(rows), weight, k});
  }
}

TargetWindows::Window TargetWindows::at(int64_t probe) const {
  Window out{DocumentRows(corpus_, {}, seq_len_, true),
             std::vector<double>(size_t(corpus_.num_domains()), 0.0)};
  for (const Domain& domain : domains_) {
    const int64_t all = domain.rows.num_rows();
    const int64_t per = rows_per_probe_ > 0 ? std::min(rows_per_probe_, all) : all;
    const DocumentRows part = domain.rows.window(probe % ((all + per - 1) / per) * per, per);
    const int64_t tokens = part.trained_tokens();
    if (tokens > 0) out.token_weight[domain.index] = domain.weight / double(tokens);
    out.rows.append(part);
  }
  return out;
}

}  // namespace cadre::trainer
