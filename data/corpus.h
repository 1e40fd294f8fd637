// The documents of one split, as training and evaluation read them. Documents are numbered in the manifest's order of
// shards. A document's tokens start with bos and end with eos.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/manifest.h"

namespace cadre::data {

struct DocumentInfo {
  int64_t length = 0;  // tokens, bos and eos included; >= 2
  int64_t bytes = 0;   // of the original text
  int32_t domain = 0;
};

class Corpus {
 public:
  virtual ~Corpus() = default;
  virtual int64_t num_documents() const = 0;
  virtual DocumentInfo document(int64_t index) const = 0;
  virtual int num_domains() const = 0;
  virtual const std::string& domain_name(int domain) const = 0;
  // Tokens [begin, begin + out.size()) of a document. Thread-safe. Throws Error(kData).
  virtual void read(int64_t document, int64_t begin, std::span<int32_t> out) const = 0;
};

// Opens every shard of the split after checking it; throws Error(kData) naming the first bad one and what differs.
std::unique_ptr<Corpus> open_corpus(const Manifest& manifest, const std::string& split, Verify verify);

// A corpus in memory, for tests.
struct MemoryDocument {
  int32_t domain = 0;
  std::vector<int32_t> tokens;
  int64_t bytes = 0;
};
std::unique_ptr<Corpus> make_memory_corpus(std::vector<std::string> domains,
                                           std::vector<MemoryDocument> documents);

}  // namespace cadre::data
