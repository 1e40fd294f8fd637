// Hugging Face's tokenizer.json, BPE models: byte-level as in GPT-2, Llama 3 and Qwen, and
// SentencePiece-style with byte fallback as in Llama 2 and Mistral. Ids agree with the reference library
// (`tokenizers` 0.23) on every well-formed text; ill-formed bytes, which that library refuses, become byte
// tokens.
//
// decode(encode(x)) == x holds where the file's normaliser changes nothing: for every byte string with
// GPT-2's, for text in NFC with Qwen's. Special tokens decode to nothing, as by default in the reference.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace cadre::data {

class BpeTokenizer : public Tokenizer {
 public:
  // As encode(), but a special token that stands in the text becomes its id, as in chat prompts. Never for
  // documents from elsewhere: they could then end themselves, or speak as the system.
  virtual void encode_with_specials(std::string_view text, std::vector<int32_t>& out) const = 0;
  virtual int id_of(const std::string& token) const = 0;  // -1 when there is none
  // What an id stands for inside of a text, special tokens by their own text. Throws Error(kData) for an id that
  // there is not.
  virtual std::string_view bytes_of(int32_t id) const = 0;
};

// Which tokens start and end documents; empty: as the files say.
struct DocumentMarks {
  std::string bos, eos;
};

// From definition(), or from the bytes of a tokenizer.json that marks its bos and eos as that does. `where`
// names the source in messages.
std::unique_ptr<Tokenizer> make_tokenizer_json(const std::string& definition, const std::string& where);

// From what people have: a folder or its tokenizer.json, with the tokenizer_config.json beside it, or GPT-2's
// encoder.json, with the vocab.bpe beside it (merges.txt beside vocab.json will do as well).
std::unique_ptr<BpeTokenizer> import_tokenizer(const std::filesystem::path& path,
                                               const DocumentMarks& marks = {});

}  // namespace cadre::data
