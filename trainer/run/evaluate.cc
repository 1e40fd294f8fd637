#include "trainer/run/evaluate.h"

#include <algorithm>
#include <numbers>

namespace cadre::trainer {
namespace {

// Inputs [begin, begin + count) of a document; targets one further on. Pieces overlap by the one token that
// is the target of one and the input of the next.
struct EvalPiece {
  int64_t document = 0, begin = 0, count = 0;
};
using EvalRow = std::vector<EvalPiece>;

// Pieces in order into rows of at most seq_len tokens; one piece a row where attention would cross documents.
std::vector<EvalRow> make_rows(const data::Corpus& corpus, const EvalSet& set, int64_t seq_len, bool pack) {
  std::vector<EvalRow> rows;
  int64_t room = 0;
  for (int64_t document : set.documents) {
    const int64_t inputs = corpus.document(document).length - 1;
    for (int64_t begin = 0; begin < inputs; begin += seq_len) {
      const int64_t count = std::min(seq_len, inputs - begin);
      if (!pack || count > room) {
        rows.emplace_back();
        room = seq_len;
      }
      rows.back().push_back({document, begin, count});
      room -= count;
    }
  }
  return rows;
}

Batch empty_batch(int64_t sequences, int64_t seq_len) {
  Batch batch;
  batch.num_sequences = sequences;
  batch.seq_len = seq_len;
  const size_t n = size_t(batch.num_tokens());
  batch.tokens.assign(n, 0);
  batch.targets.assign(n, 0);
  batch.loss_mask.assign(n, 0);
  batch.segment.assign(n, -1);
  batch.position.assign(n, 0);
  batch.domain.assign(n, 0);
  batch.document.assign(n, -1);
  return batch;
}

void fill_row(const data::Corpus& corpus, const EvalRow& row, int64_t at, Batch& batch) {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> mask;
  for (size_t s = 0; s < row.size(); ++s) {
    const EvalPiece& piece = row[s];
    tokens.resize(size_t(piece.count) + 1);
    corpus.read(piece.document, piece.begin, tokens);
    mask.resize(size_t(piece.count));
    corpus.read_mask(piece.document, piece.begin + 1, mask);
    const int32_t domain = corpus.document(piece.document).domain;
    for (int64_t i = 0; i < piece.count; ++i, ++at) {
      const size_t t = size_t(at);
      batch.tokens[t] = tokens[size_t(i)];
      batch.targets[t] = tokens[size_t(i) + 1];
      batch.loss_mask[t] = mask[size_t(i)];
      batch.segment[t] = int32_t(s);
      batch.position[t] = int32_t(i);
      batch.domain[t] = domain;
      batch.document[t] = piece.document;
    }
  }
}

}  // namespace

double DomainScore::bits_per_byte() const {
  return bytes > 0 ? nats / std::numbers::ln2 / double(bytes) : 0;
}

EvalSet choose_documents(const data::Corpus& corpus, int64_t tokens_per_domain) {
  const size_t domains = size_t(corpus.num_domains());
  EvalSet set{{}, std::vector<int64_t>(domains), std::vector<int64_t>(domains)};
  std::vector<uint8_t> mask;
  for (int64_t d = 0; d < corpus.num_documents(); ++d) {
    const data::DocumentInfo info = corpus.document(d);
    const size_t k = size_t(info.domain);
    if (set.tokens[k] >= tokens_per_domain) continue;
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
  const auto rows = make_rows(corpus, set, seq_len, model.config.data.mask_documents);
  comm::Communicator& data = model.mesh.data();
  const int64_t ranks = data.size(), own = (int64_t(rows.size()) + ranks - 1) / ranks;
  std::vector<double> nats(size_t(corpus.num_domains()), 0.0);
  // Every rank runs the same number of forward passes: they are collective over expert groups.
  for (int64_t first = 0; first < own; first += micro_batch) {
    Batch batch = empty_batch(std::min(micro_batch, own - first), seq_len);
    for (int64_t i = 0; i < batch.num_sequences; ++i) {
      const int64_t row = (first + i) * ranks + data.rank();
      if (row < int64_t(rows.size())) fill_row(corpus, rows[size_t(row)], i * seq_len, batch);
    }
    const auto logp = model.decoder.forward(batch, false);
    for (int64_t t = 0; t < batch.num_tokens(); ++t) {
      if (batch.loss_mask[size_t(t)] != 0) nats[size_t(batch.domain[size_t(t)])] -= double(logp[t]);
    }
  }
  data.all_reduce(std::span<double>(nats), comm::ReduceOp::kSum, "evaluation");
  return score(corpus, set, nats);
}

}  // namespace cadre::trainer
