// The tiny corpora as shards with a manifest, for what reads data from files.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "data/manifest.h"
#include "data/shard.h"
#include "tests/trainer/run_fixture.h"

namespace cadre::trainer::testing {

inline data::Manifest tiny_manifest(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  data::Manifest manifest;
  manifest.folder = folder;
  manifest.tokenizer_file = "tokenizer.model";
  manifest.tokenizer_kind = "bytes";
  manifest.tokenizer_sha256 = std::string(64, 'a');
  manifest.vocab_size = kVocab;
  manifest.eos = 1;
  return manifest;
}

// A split of tiny_corpus(seed), shards[i] documents in shard i. Of pairs, neighbouring documents stand for two answers, and
// all but the first four tokens are trained.
inline void add_split(data::Manifest& manifest, const std::string& name, uint64_t seed,
                      const std::vector<int>& shards) {
  const bool pairs = manifest.kind == data::SetKind::kPreference;
  int all = 0;
  for (const int n : shards) all += n;
  const auto corpus = tiny_corpus(seed, all);
  data::Split split{name, {}, {{"alpha"}, {"beta"}, {"gamma"}}};
  data::ShardWriter writer(
      {manifest.tokenizer_sha256, kVocab, {"alpha", "beta", "gamma"}, name, manifest.kind});
  int64_t d = 0;
  for (const int n : shards) {
    for (int i = 0; i < n; ++i, ++d) {
      const data::DocumentInfo info = corpus->document(d);
      std::vector<int32_t> tokens(size_t(info.length));
      corpus->read(d, 0, tokens);
      const int32_t k = pairs ? int32_t(d / 2 % 3) : info.domain;
      std::vector<uint8_t> mask(pairs ? tokens.size() : 0, 1);
      if (pairs) std::fill_n(mask.begin(), 4, uint8_t(0));
      writer.add(tokens, k, uint32_t(info.bytes), {}, {.loss_mask = mask, .answer = {}});
      data::DomainInfo& domain = split.domains[size_t(k)];
      domain.documents += 1, domain.tokens += info.length, domain.bytes += info.bytes;
    }
    split.shards.push_back(
        writer.finish(manifest.folder, fmt::format("{}-{}.h5", name, split.shards.size())));
  }
  manifest.splits.push_back(split);
}

inline std::string save(const data::Manifest& manifest) {
  const std::filesystem::path file = manifest.folder / "manifest.json";
  data::save_manifest(manifest, file);
  return file.string();
}

}  // namespace cadre::trainer::testing
