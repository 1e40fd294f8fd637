// The documents of a split over all of its shards, and the corpus in memory of the tests.
#include "data/corpus.h"

#include <algorithm>

#include "data/shard.h"
#include "parallel/base/blackbox.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// Offsets, domains and lengths stay in the shards' own arrays: 14 bytes a document in all.
class ShardCorpus : public Corpus {
 public:
  ShardCorpus(const Manifest& manifest, const Split& split, Verify verify)
      : manifest_(manifest), split_(split), kind_(manifest.kind) {
    for (const DomainInfo& d : split.domains) domains_.push_back(d.name);
    for (const ShardInfo& info : split.shards) {
      base::enter(base::Phase::kData);  // verifying all of them takes longer than a rank may stand still
      shards_.push_back(std::make_unique<ShardReader>(manifest, info, verify));
      first_.push_back(first_.back() + shards_.back()->documents());
    }
    check_domain_counts(split);
  }

  int64_t num_documents() const override { return first_.back(); }
  int num_domains() const override { return static_cast<int>(domains_.size()); }
  const std::string& domain_name(int domain) const override {
    return domains_.at(static_cast<size_t>(domain));
  }

  DocumentInfo document(int64_t index) const override {
    const auto [shard, d] = locate(index);
    const auto& offsets = shard->offsets();
    return {static_cast<int64_t>(offsets[d + 1] - offsets[d]), shard->doc_bytes()[d], shard->doc_domain()[d]};
  }

  void read(int64_t document, int64_t begin, std::span<int32_t> out) const override {
    const auto [shard, first] = range(document, begin, out.size());
    shard->read_tokens(first, out);
  }

  SetKind kind() const override { return kind_; }
  void read_mask(int64_t document, int64_t begin, std::span<uint8_t> out) const override {
    const auto [shard, first] = range(document, begin, out.size());
    if (shard->loss_mask().empty()) return Corpus::read_mask(document, begin, out);
    std::copy_n(shard->loss_mask().begin() + int64_t(first), out.size(), out.begin());
  }
  PromptInfo prompt(int64_t document) const override {
    if (kind_ != SetKind::kPrompts) return Corpus::prompt(document);
    const auto [shard, d] = locate(document);
    return {shard->answer(d), shard->level(d)};
  }
  Scores scores(const std::string& name) const override { return load_scores(manifest_, split_, name); }

 private:
  // The shard of a document, and where its token `begin` stands there.
  std::pair<const ShardReader*, uint64_t> range(int64_t document, int64_t begin, size_t count) const {
    const auto [shard, d] = locate(document);
    const uint64_t first = shard->offsets()[d], length = shard->offsets()[d + 1] - first;
    require(begin >= 0 && uint64_t(begin) <= length && count <= length - uint64_t(begin), ExitCode::kData,
            "tokens {} to {} of document {} asked for, it has {}", begin, uint64_t(begin) + count, document,
            length);
    return {shard, first + uint64_t(begin)};
  }
  std::pair<const ShardReader*, size_t> locate(int64_t index) const {
    require(index >= 0 && index < first_.back(), ExitCode::kData, "document {} asked for, the corpus has {}",
            index, first_.back());
    const size_t shard =
        static_cast<size_t>(std::upper_bound(first_.begin(), first_.end(), index) - first_.begin()) - 1;
    return {shards_[shard].get(), static_cast<size_t>(index - first_[shard])};
  }

  void check_domain_counts(const Split& split) const {
    std::vector<int64_t> documents(domains_.size()), tokens(domains_.size()), bytes(domains_.size());
    for (const auto& shard : shards_) {
      for (size_t d = 0; d < shard->doc_domain().size(); ++d) {
        const uint16_t k = shard->doc_domain()[d];
        ++documents[k];
        tokens[k] += static_cast<int64_t>(shard->offsets()[d + 1] - shard->offsets()[d]);
        bytes[k] += shard->doc_bytes()[d];
      }
    }
    for (size_t k = 0; k < domains_.size(); ++k) {
      const DomainInfo& info = split.domains[k];
      require(documents[k] == info.documents && tokens[k] == info.tokens && bytes[k] == info.bytes,
              ExitCode::kData,
              "split '{}': the shards hold {} documents, {} tokens, {} bytes of domain '{}', expected {}, "
              "{}, {} (manifest)",
              split.name, documents[k], tokens[k], bytes[k], info.name, info.documents, info.tokens,
              info.bytes);
    }
  }

  const Manifest manifest_;
  const Split split_;
  SetKind kind_;
  std::vector<std::string> domains_;
  std::vector<std::unique_ptr<ShardReader>> shards_;
  std::vector<int64_t> first_ = {0};  // (shards + 1) index of each shard's first document
};

class MemoryCorpus : public Corpus {
 public:
  MemoryCorpus(std::vector<std::string> domains, std::vector<MemoryDocument> documents, SetKind kind,
               std::map<std::string, Scores> scores)
      : domains_(std::move(domains)),
        documents_(std::move(documents)),
        kind_(kind),
        scores_(std::move(scores)) {}
  SetKind kind() const override { return kind_; }
  void read_mask(int64_t document, int64_t begin, std::span<uint8_t> out) const override {
    const std::vector<uint8_t>& mask = documents_.at(static_cast<size_t>(document)).loss_mask;
    if (mask.empty()) return Corpus::read_mask(document, begin, out);
    std::copy_n(mask.begin() + begin, out.size(), out.begin());
  }
  int64_t num_documents() const override { return static_cast<int64_t>(documents_.size()); }
  int num_domains() const override { return static_cast<int>(domains_.size()); }
  const std::string& domain_name(int domain) const override {
    return domains_.at(static_cast<size_t>(domain));
  }
  DocumentInfo document(int64_t index) const override {
    const MemoryDocument& d = documents_.at(static_cast<size_t>(index));
    return {static_cast<int64_t>(d.tokens.size()), d.bytes, d.domain};
  }
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const override {
    const std::vector<int32_t>& tokens = documents_.at(static_cast<size_t>(document)).tokens;
    require(begin >= 0 && size_t(begin) + out.size() <= tokens.size(), ExitCode::kData,
            "tokens {} to {} of document {} asked for, it has {}", begin, size_t(begin) + out.size(),
            document, tokens.size());
    std::copy_n(tokens.begin() + begin, out.size(), out.begin());
  }
  Scores scores(const std::string& name) const override {
    const auto found = scores_.find(name);
    return found == scores_.end() ? Corpus::scores(name) : found->second;
  }

 private:
  std::vector<std::string> domains_;
  std::vector<MemoryDocument> documents_;
  SetKind kind_;
  std::map<std::string, Scores> scores_;
};

}  // namespace

Scores Corpus::scores(const std::string& name) const {
  fail(ExitCode::kData, "this data has no scores called '{}'; make them with `cadre score --name {}`", name,
       name);
}

void Corpus::read_mask(int64_t document, int64_t begin, std::span<uint8_t> out) const {
  (void)document, (void)begin;
  std::fill(out.begin(), out.end(), uint8_t(1));
}

PromptInfo Corpus::prompt(int64_t document) const {
  fail(ExitCode::kData, "document {} is no prompt: this is a set of kind {}, expected prompts", document,
       name_of(kind()));
}

std::unique_ptr<Corpus> open_corpus(const Manifest& manifest, const std::string& split, Verify verify) {
  return std::make_unique<ShardCorpus>(manifest, manifest.split(split), verify);
}

std::unique_ptr<Corpus> make_memory_corpus(std::vector<std::string> domains,
                                           std::vector<MemoryDocument> documents, SetKind kind,
                                           std::map<std::string, Scores> scores) {
  return std::make_unique<MemoryCorpus>(std::move(domains), std::move(documents), kind, std::move(scores));
}

}  // namespace cadre::data
