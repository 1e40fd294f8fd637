// Conversations and preference pairs made of the tiny corpus.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "tests/trainer/run_fixture.h"

namespace cadre::trainer::testing {

// Conversations: documents of the tiny corpus in which every third run of five tokens is an answer.
inline Dataset conversations() {
  const Dataset tiny = tiny_dataset();
  Dataset set;
  set.vocab = kVocab;
  std::vector<data::MemoryDocument> all;
  for (int64_t d = 0; d < tiny.train->num_documents(); ++d) {
    const data::DocumentInfo info = tiny.train->document(d);
    data::MemoryDocument document{info.domain, std::vector<int32_t>(size_t(info.length)), info.bytes};
    tiny.train->read(d, 0, document.tokens);
    for (int64_t i = 0; i < info.length; ++i) document.loss_mask.push_back(i / 5 % 3 == 1);
    all.push_back(std::move(document));
  }
  set.train = data::make_memory_corpus({"alpha", "beta", "gamma"}, all, data::SetKind::kInstruction);
  set.valid =
      data::make_memory_corpus({"alpha", "beta", "gamma"}, std::move(all), data::SetKind::kInstruction);
  return set;
}

// Pairs: of documents that differ in their answers; the chosen one follows the corpus's rule.
inline Dataset preferences() {
  const Dataset tiny = tiny_dataset();
  Dataset set;
  set.vocab = kVocab;
  std::vector<data::MemoryDocument> all;
  for (int64_t d = 0; d < 60; ++d) {
    const data::DocumentInfo info = tiny.train->document(d);
    const int64_t length = std::min<int64_t>(info.length, 18);
    data::MemoryDocument chosen{info.domain, std::vector<int32_t>(size_t(length)), 0};
    tiny.train->read(d, 0, chosen.tokens);
    for (int64_t i = 0; i < length; ++i) chosen.loss_mask.push_back(i >= 4);
    data::MemoryDocument rejected = chosen;
    for (int64_t i = 4; i < length; ++i)
      rejected.tokens[size_t(i)] = 2 + (rejected.tokens[size_t(i)] * 7 + 3) % (kVocab - 2);
    all.push_back(std::move(chosen));
    all.push_back(std::move(rejected));
  }
  set.train =
      data::make_memory_corpus({"alpha", "beta", "gamma"}, std::move(all), data::SetKind::kPreference);
  return set;
}

inline const std::vector<std::string> kPairs = {"objective=dpo", "moe.balance=none", "data.pack=false",
                                                "data.seq_len=40"};

}  // namespace cadre::trainer::testing
