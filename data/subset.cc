// A part of a corpus as a corpus of its own, so that mixers, curricula and the planner see nothing else.
#include <fmt/format.h>

#include <algorithm>

#include "data/pair_view.h"
#include "data/selector.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

class Subset final : public Corpus {
 public:
  Subset(std::unique_ptr<Corpus> corpus, std::vector<int64_t> documents)
      : corpus_(std::move(corpus)), documents_(std::move(documents)) {
    const auto* bytes = reinterpret_cast<const char*>(documents_.data());
    selection_ = base::sha256_text({bytes, documents_.size() * sizeof(int64_t)});
  }
  SetKind kind() const override { return corpus_->kind(); }
  int64_t num_documents() const override { return int64_t(documents_.size()); }
  DocumentInfo document(int64_t index) const override { return corpus_->document(at(index)); }
  int num_domains() const override { return corpus_->num_domains(); }
  const std::string& domain_name(int domain) const override { return corpus_->domain_name(domain); }
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const override {
    corpus_->read(at(document), begin, out);
  }
  void read_mask(int64_t document, int64_t begin, std::span<uint8_t> out) const override {
    corpus_->read_mask(at(document), begin, out);
  }
  PromptInfo prompt(int64_t document) const override { return corpus_->prompt(at(document)); }
  Scores scores(const std::string& name) const override {
    Scores all = corpus_->scores(name);
    for (std::vector<double>& column : all.values) {
      std::vector<double> part;
      for (const int64_t d : documents_) part.push_back(column.at(size_t(d)));
      column = std::move(part);
    }
    return all;
  }
  std::string selection() const override { return selection_; }

 private:
  int64_t at(int64_t index) const { return documents_.at(size_t(index)); }

  std::unique_ptr<Corpus> corpus_;
  std::vector<int64_t> documents_;  // rising
  std::string selection_;
};

}  // namespace

std::unique_ptr<Corpus> make_subset(std::unique_ptr<Corpus> corpus, const std::vector<int64_t>& units) {
  const int64_t each = corpus->kind() == SetKind::kPreference ? 2 : 1;
  std::vector<int64_t> documents;
  for (const int64_t u : units) {
    for (int64_t i = 0; i < each; ++i) documents.push_back(each * u + i);
  }
  require(!documents.empty(), ExitCode::kData,
          "the selector left no document of {}; raise selector.keep or leave the selector out",
          corpus->num_documents());
  return std::make_unique<Subset>(std::move(corpus), std::move(documents));
}

std::unique_ptr<Corpus> select_documents(const Selector& selector, std::unique_ptr<Corpus> corpus,
                                         uint64_t seed) {
  const auto pairs = corpus->kind() == SetKind::kPreference ? make_pair_view(*corpus) : nullptr;
  const auto chosen = selector.choose(pairs ? *pairs : *corpus, seed);
  return chosen ? make_subset(std::move(corpus), *chosen) : std::move(corpus);
}

}  // namespace cadre::data
