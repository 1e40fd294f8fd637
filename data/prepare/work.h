// What all passes share: options, inputs, ranks and the names of the work files.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "data/prepare/documents.h"
#include "data/prepare/inputs.h"
#include "data/prepare/prepare.h"
#include "data/shard.h"
#include "parallel/comm/communicator.h"

namespace cadre::data {

// One document of a unit's scan part, in the order of reading.
struct DocRecord {
  DocHash hash = {};    // first 16 bytes of the text's SHA-256
  uint32_t bytes = 0;   // of the text
  uint32_t domain = 0;  // index into the unit's own list
};
static_assert(sizeof(DocRecord) == 24, "scan parts hold these bytes");

// What select decides for a document; one byte each in the choice part.
enum class Choice : uint8_t { kTrain, kValid, kExactDuplicate, kNearDuplicate };
constexpr bool is_kept(Choice choice) {
  return choice <= Choice::kValid;
}

struct Work {
  const PrepareOptions& options;
  Inputs inputs;
  comm::Communicator& comm;
  int threads = 1;
  std::filesystem::path folder;  // OUT/.work
  ReadOptions read;

  bool finds_near_duplicates() const { return options.near_duplicates > 0; }
  bool trains_tokenizer() const { return options.tokenizer == "sentencepiece"; }
  int64_t num_units() const { return static_cast<int64_t>(inputs.units.size()); }

  // (D of the unit) DocRecord; tail: counts and problems. Written last of a unit's scan parts.
  std::filesystem::path scan_part(int64_t unit) const { return part("scan", unit); }
  std::filesystem::path signature_part(int64_t unit) const { return part("minhash", unit); }  // (D) Signature
  std::filesystem::path sample_part(int64_t unit) const { return part("sample", unit); }
  std::filesystem::path choice_part() const {
    return folder / "choices";
  }  // (D of all) Choice; tail: domains
  std::filesystem::path tokenizer_folder() const { return folder / "tokenizer"; }
  // Tokens of the unit's kept documents one after the other, uint16 or uint32 as in shards.
  std::filesystem::path token_part(int64_t unit) const { return part("tokens", unit); }
  std::filesystem::path length_part(int64_t unit) const {
    return part("lengths", unit);
  }  // (kept D) uint64; written last
  std::filesystem::path shard_folder() const { return folder / "shards"; }

 private:
  std::filesystem::path part(const char* kind, int64_t unit) const {
    return folder / fmt::format("{}-{:06d}", kind, unit);
  }
};

}  // namespace cadre::data
