#include "trainer/audit/derived_corpus.h"

#include <algorithm>
#include <numeric>

#include "parallel/base/rng.h"

namespace cadre::audit {
namespace {

class DerivedCorpus final : public data::Corpus {
 public:
  DerivedCorpus(const data::Corpus& source, std::vector<std::string> domains, std::vector<Part> parts)
      : source_(source), domains_(std::move(domains)), parts_(std::move(parts)) {}

  data::SetKind kind() const override { return source_.kind(); }
  int64_t num_documents() const override { return int64_t(parts_.size()); }
  data::DocumentInfo document(int64_t index) const override {
    const Part& part = parts_[size_t(index)];
    const data::DocumentInfo whole = source_.document(part.document);
    return {part.length, whole.bytes * part.length / whole.length, part.domain};
  }
  int num_domains() const override { return int(domains_.size()); }
  const std::string& domain_name(int domain) const override { return domains_[size_t(domain)]; }

  void read(int64_t document, int64_t begin, std::span<int32_t> out) const override {
    const Part& part = parts_[size_t(document)];
    if (!part.shuffled) return source_.read(part.document, part.begin + begin, out);
    std::vector<int32_t> tokens(static_cast<size_t>(part.length));
    source_.read(part.document, part.begin, tokens);
    const std::vector<size_t> order = shuffle(part);
    for (size_t i = 0; i < out.size(); ++i) out[i] = tokens[order[size_t(begin) + i]];
  }
  void read_mask(int64_t document, int64_t begin, std::span<uint8_t> out) const override {
    const Part& part = parts_[size_t(document)];
    source_.read_mask(part.document, part.begin + begin, out);
  }

 private:
  static std::vector<size_t> shuffle(const Part& part) {
    const base::Philox random(base::mix(base::hash_name("shuffled"), uint64_t(part.document)));
    std::vector<size_t> order(static_cast<size_t>(part.length));
    std::iota(order.begin(), order.end(), size_t(0));
    for (size_t i = order.size(); i-- > 2;)
      std::swap(order[i], order[1 + size_t(random.bits(i, uint64_t(part.begin)) % i)]);
    return order;
  }

  const data::Corpus& source_;
  std::vector<std::string> domains_;
  std::vector<Part> parts_;
};

}  // namespace

std::unique_ptr<data::Corpus> make_derived_corpus(const data::Corpus& source,
                                                  std::vector<std::string> domains, std::vector<Part> parts) {
  return std::make_unique<DerivedCorpus>(source, std::move(domains), std::move(parts));
}

std::vector<std::string> domain_names(const data::Corpus& corpus) {
  std::vector<std::string> names;
  for (int k = 0; k < corpus.num_domains(); ++k) names.push_back(corpus.domain_name(k));
  return names;
}

std::vector<Part> whole_documents(const data::Corpus& corpus) {
  std::vector<Part> parts;
  for (int64_t d = 0; d < corpus.num_documents(); ++d) {
    const data::DocumentInfo info = corpus.document(d);
    parts.push_back({d, 0, info.length, info.domain});
  }
  return parts;
}

std::vector<Part> passages(const data::Corpus& corpus, int64_t tokens) {
  std::vector<Part> parts;
  for (int64_t d = 0; d < corpus.num_documents(); ++d) {
    const data::DocumentInfo info = corpus.document(d);
    for (int64_t begin = 0; begin < info.length; begin += tokens) {
      const int64_t length = std::min(tokens, info.length - begin);
      if (begin > 0 && 2 * length < tokens) break;
      if (length >= 2) parts.push_back({d, begin, length, info.domain});
    }
  }
  return parts;
}

std::vector<int64_t> spread(int64_t available, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < std::min(available, count); ++i)
    out.push_back(i * available / std::min(available, count));
  return out;
}

}  // namespace cadre::audit
