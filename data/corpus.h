// The documents of one split, as training and evaluation read them. Documents are numbered in the manifest's order of
// shards. A document's tokens start with bos and end with eos.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/manifest.h"
#include "data/scores.h"

namespace cadre::data {

struct DocumentInfo {
  int64_t length = 0;  // tokens, bos and eos included; >= 2
  int64_t bytes = 0;   // of the original text
  int32_t domain = 0;
};

// One prompt of a set of prompts.
struct PromptInfo {
  std::string answer;
  int level = 0;
};

class Corpus {
 public:
  virtual ~Corpus() = default;
  virtual SetKind kind() const { return SetKind::kText; }
  virtual int64_t num_documents() const = 0;
  virtual DocumentInfo document(int64_t index) const = 0;
  virtual int num_domains() const = 0;
  virtual const std::string& domain_name(int domain) const = 0;
  // Tokens [begin, begin + out.size()) of a document. Thread-safe. Throws Error(kData).
  virtual void read(int64_t document, int64_t begin, std::span<int32_t> out) const = 0;
  // The same range: 1 where the token is to be predicted. All of them, but for conversations and pairs.
  virtual void read_mask(int64_t document, int64_t begin, std::span<uint8_t> out) const;
  // Throws Error(kData) unless this is a set of prompts.
  virtual PromptInfo prompt(int64_t document) const;
  // What `cadre score --name` said about every document. Throws Error(kData) when there is nothing of that name, or it
  // belongs to other data.
  virtual Scores scores(const std::string& name) const;
  // Which documents of the data these are: a digest, empty for all of them. A plan is bound to it.
  virtual std::string selection() const { return ""; }
};

// Opens every shard of the split after checking it; throws Error(kData) naming the first bad one and what differs.
std::unique_ptr<Corpus> open_corpus(const Manifest& manifest, const std::string& split, Verify verify);

// A corpus in memory, for tests.
struct MemoryDocument {
  int32_t domain = 0;
  std::vector<int32_t> tokens;
  int64_t bytes = 0;
  std::vector<uint8_t> loss_mask = {};  // by token; empty: all
};
std::unique_ptr<Corpus> make_memory_corpus(std::vector<std::string> domains,
                                           std::vector<MemoryDocument> documents,
                                           SetKind kind = SetKind::kText,
                                           std::map<std::string, Scores> scores = {});

}  // namespace cadre::data
