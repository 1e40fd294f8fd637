#include "trainer/audit/tampered_text.h"

#include <algorithm>

#include "parallel/base/rng.h"
#include "trainer/audit/derived_corpus.h"
#include "trainer/audit/retrain.h"

namespace cadre::audit {
namespace {

// Documents in an order that depends on the seed, for giving them each other's labels and choosing some.
std::vector<size_t> shuffled(size_t count, uint64_t seed) {
  const base::Philox random(base::mix(base::hash_name("controls"), seed));
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  for (size_t i = count; i-- > 1;) std::swap(order[i], order[size_t(random.uniform(i) * double(i + 1))]);
  return order;
}

std::vector<Part> units(const data::Corpus& text, int64_t passage) {
  return passage > 0 ? passages(text, passage) : whole_documents(text);
}

std::unique_ptr<data::Corpus> permuted(const data::Corpus& text, std::vector<Part> parts, uint64_t seed) {
  const std::vector<size_t> order = shuffled(parts.size(), seed);
  std::vector<int32_t> labels;
  for (const size_t i : order) labels.push_back(parts[i].domain);
  for (size_t i = 0; i < parts.size(); ++i) parts[i].domain = labels[i];
  return make_derived_corpus(text, domain_names(text), std::move(parts));
}

std::unique_ptr<data::Corpus> duplicated(const data::Corpus& text, std::vector<Part> parts, int domain) {
  std::vector<std::string> names = domain_names(text);
  const size_t count = parts.size();
  for (size_t i = 0; i < count; ++i) {
    if (parts[i].domain != domain) continue;
    parts.push_back(parts[i]);
    parts.back().domain = int32_t(names.size());
  }
  names.push_back(names[size_t(domain)] + kCopy);
  return make_derived_corpus(text, std::move(names), std::move(parts));
}

// As large as a domain is on average; every document is a shuffled one of the text.
std::unique_ptr<data::Corpus> with_junk(const data::Corpus& text, std::vector<Part> parts, uint64_t seed) {
  std::vector<std::string> names = domain_names(text);
  std::vector<size_t> order = shuffled(parts.size(), seed);
  order.resize(std::max<size_t>(1, order.size() / names.size()));
  for (const size_t i : order) {
    parts.push_back(parts[i]);
    parts.back().domain = int32_t(names.size());
    parts.back().shuffled = true;
  }
  names.push_back(kJunk);
  return make_derived_corpus(text, std::move(names), std::move(parts));
}

std::unique_ptr<data::Corpus> only(const data::Corpus& text, int domain) {
  std::vector<Part> parts;
  for (const Part& part : whole_documents(text)) {
    if (part.domain == domain) parts.push_back(part);
  }
  require(!parts.empty(), ExitCode::kData, "domain '{}' has no held-out text for the control 'target'",
          text.domain_name(domain));
  return make_derived_corpus(text, domain_names(text), std::move(parts));
}

}  // namespace

trainer::Dataset tampered(const std::string& control, const trainer::Dataset& set, int64_t passage,
                          int domain, uint64_t seed) {
  const data::Corpus& text = *set.train;
  require(set.valid != nullptr, ExitCode::kData, "the controls need held-out text; prepare with --valid");
  std::vector<Part> parts = units(text, passage);
  if (control == "permuted") return with_training_text(set, permuted(text, std::move(parts), seed), nullptr);
  if (control == "duplicated")
    return with_training_text(set, duplicated(text, std::move(parts), domain), nullptr);
  if (control == "junk") return with_training_text(set, with_junk(text, std::move(parts), seed), nullptr);
  return with_training_text(set, make_derived_corpus(text, domain_names(text), std::move(parts)),
                            only(*set.valid, domain));
}

}  // namespace cadre::audit
