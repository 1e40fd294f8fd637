// Reading the parts of a tokenizer.json that concern the vocabulary, and marking which tokens start and end
// documents.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizers/added_tokens.h"
#include "data/tokenizers/bpe.h"
#include "data/tokenizers/json_fields.h"
#include "data/tokenizers/tokenizer_json.h"

namespace cadre::data {

constexpr int32_t kMaxTokenId = (1 << 22) - 1;  // bounds what tables by id take, whatever a file says

// The field "model". Throws Error(kData) for models other than BPE and for settings that change ids in ways
// that this program does not know.
BpeSource read_bpe(const JsonFields& file, bool byte_level);
// The field "added_tokens"; ids agree with the vocabulary and with each other.
std::vector<AddedToken> read_added_tokens(const JsonFields& file, const BpeSource& source);

// The roles stand in the entries of "added_tokens", under a key that the reference library passes over.
struct Roles {
  int32_t bos = -1, eos = -1;
};
Roles read_roles(const JsonFields& file);
// Marks the two tokens, which must be in the vocabulary or among the added tokens, and makes them special.
void write_roles(Json& document, const DocumentMarks& marks, const std::string& where);

std::unique_ptr<BpeTokenizer> make_bpe_tokenizer(const Json& document, const std::string& where);

}  // namespace cadre::data
