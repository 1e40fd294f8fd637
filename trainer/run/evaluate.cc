#include "trainer/run/evaluate.h"

#include <algorithm>
#include <numbers>

#include "data/batch_rows.h"
#include "parallel/base/blackbox.h"
#include "trainer/run/document_rows.h"

namespace cadre::trainer {

double DomainScore::bits_per_byte() const {
  return bytes > 0 ? nats / std::numbers::ln2 / double(bytes) : 0;
}

EvalSet choose_documents(const data::Corpus& corpus, int64_t tokens_per_domain, bool from_the_end) {
  const size_t domains = size_t(corpus.num_domains());
  EvalSet set{{}, std::vector<int64_t>(domains), std::vector<int64_t>(domains)};
  std::vector<uint8_t> mask;
  const bool pairs = corpus.kind() == data::SetKind::kPreference;
  bool taken = false;
  for (int64_t i = 0; i < corpus.num_documents(); ++i) {
    const int64_t d = from_the_end ? corpus.num_documents() - 1 - i : i;
    const data::DocumentInfo info = corpus.document(d);
    const size_t k = size_t(info.domain);
    if (!pairs || i % 2 == 0) taken = set.tokens[k] < tokens_per_domain;  // both answers of a pair, or none
    if (!taken) continue;
    set.documents.push_back(d);
    if (corpus.kind() == data::SetKind::kText) {
      set.tokens[k] += info.length - 1;
      set.bytes[k] += info.bytes;
    } else {
      mask.resize(size_t(info.length - 1));
      corpus.read_mask(d, 1, mask);
      set.tokens[k] += std::count(mask.begin(), mask.end(), 1);
    }
  }
  std::sort(set.documents.begin(), set.documents.end());
  return set;
}

std::vector<DomainScore> score(const data::Corpus& corpus, const EvalSet& set,
                               const std::vector<double>& nats) {
  std::vector<DomainScore> scores;
  for (int k = 0; k < corpus.num_domains(); ++k) {
    scores.push_back({corpus.domain_name(k), set.tokens[size_t(k)], set.bytes[size_t(k)], nats[size_t(k)]});
  }
  return scores;
}

std::vector<DomainScore> evaluate(ModelState& model, const data::Corpus& corpus, const EvalSet& set,
                                  int64_t micro_batch) {
  const int64_t seq_len = model.config.data.seq_len;
  const DocumentRows rows(corpus, set.documents, seq_len, model.config.data.mask_documents);
  const comm::Mesh& mesh = model.mesh;
  std::vector<double> nats(size_t(corpus.num_domains()), 0.0);
  for (int64_t i = 0; i < rows.micro_batches(micro_batch, mesh.row_ranks()); ++i) {
    base::enter(base::Phase::kEvaluate);  // without experts elsewhere nothing else tells that it goes on
    const Batch batch =
        data::part_of_rows(rows.micro_batch(i, micro_batch, mesh.row_rank(), mesh.row_ranks()),
                           mesh.context().rank(), mesh.context().size());
    const auto logp = model.decoder.forward(batch, false);
    for (int64_t t = 0; t < batch.num_tokens(); ++t) {
      if (batch.loss_mask[size_t(t)] != 0) nats[size_t(batch.domain[size_t(t)])] -= double(logp[t]);
    }
  }
  mesh.data().all_reduce(std::span<double>(nats), comm::ReduceOp::kSum, "evaluation");
  return score(corpus, set, nats);
}

}  // namespace cadre::trainer
