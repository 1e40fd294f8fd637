// The chat template that belongs to a tokenizer, as files hold it: its text, and the tokens that it names.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizers/json_fields.h"

namespace cadre::data {

struct ChatSource {
  std::string text;                                        // empty: none
  std::vector<std::pair<std::string, std::string>> names;  // bos_token, eos_token, ... and their texts
};

// From a .jinja, a tokenizer_config.json, or a folder or a file that these stand in or beside. Throws Error(kData)
// for files that are there but cannot be read.
ChatSource find_chat(const std::filesystem::path& path);
// A tokenizer.json of this program keeps it in the entry of the token that ends documents, under a key that the
// reference library passes over.
ChatSource read_chat(const JsonFields& file);
void write_chat(Json& document, const ChatSource& chat);

}  // namespace cadre::data
