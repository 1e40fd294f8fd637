// `cadre prepare`: text and JSONL in, tokenizer and deduplicated shards out (docs/formats.md). Five passes
// over fixed work units (inputs.h), each pass spread over threads and ranks:
//   scan      reads every unit once: hashes, lengths, domains, MinHash signatures, candidates for the
//   tokenizer's sample select    decides what stays and in which split (select.h) tokenizer trains it on the
//   sample, or loads the given one encode    reads every unit again and writes its tokens assemble  cuts the
//   tokens into shards
// and then publishes: shards, tokenizer, report.json and last the manifest appear under their final names.
// Every pass leaves whole files in OUT/.work, so that a killed run goes on where it was. Every file's content
// is a pure function of the inputs and options, never of threads, ranks or restarts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "data/manifest.h"
#include "data/prepare/report.h"
#include "parallel/comm/mesh.h"

namespace cadre::data {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  // files and folders
  std::filesystem::path out;
  std::string text_field = "text", domain_field = "domain", id_field = "id";
  std::string tokenizer = "sentencepiece";  // or "bytes", or a path that load_tokenizer takes
  int vocab_size = 4096;                    // of a trained tokenizer
  int64_t sample_bytes = 10'000'000;        // of text to train it on
  double near_duplicates = 0.8;  // Jaccard similarity of word 5-grams from which a document goes; 0 = off
  int64_t min_chars = 1, max_chars = 0;  // Unicode characters; 0 = no limit but memory_bytes / 32 bytes
  double valid_fraction = 0.01;
  int64_t shard_tokens = int64_t(1) << 22;  // a shard ends before it would hold more
  int threads = 0;                          // of each rank; 0 = all cores
  int64_t memory_bytes = int64_t(2) << 30;  // of each rank
  bool strict = false;                      // the first bad input ends the run
  bool force = false;                       // replace what OUT holds
  // Of the kinds for post-training (chat_set.h), which take .jsonl of conversations:
  SetKind kind = SetKind::kText;
  std::string chat_template = "plain";  // or "tokenizer", or a path (chat_encoder.h)
  int64_t max_tokens = 0;               // of an example, both answers of a pair together; 0: no limit
  uint64_t unit_bytes = 0;              // of input in a work unit; 0 = chosen from the inputs' size
};

struct PrepareResult {
  Manifest manifest;
  Report report;
  std::vector<std::pair<std::string, double>> seconds;  // by pass, in order; of this rank
};

// Collective over the world; the same result on every rank. Throws Error(kData) for bad inputs and full
// disks, Error(kUsage) for impossible options and for an `out` that holds a manifest already.
PrepareResult prepare(const PrepareOptions& options, comm::World& world);

}  // namespace cadre::data
