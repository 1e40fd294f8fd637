// SentencePiece BPE or unigram models with byte pieces (Kudo and Richardson, "SentencePiece", EMNLP 2018),
// made lossless: decode(encode(x)) == x for every byte string.
//
// SentencePiece itself loses bytes in four ways, each handled here:
//   - its normaliser may fold, trim or add blanks: a model is always used with the identity normaliser;
//   - it writes a blank as U+2581, so a real U+2581 in the text would come back as a blank,
//   - it replaces invalid UTF-8 by U+FFFD,
//   - NUL ends some of its strings:
// the text is cut around the last three, and their bytes become the model's byte tokens.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace cadre::data {

// From the bytes of a .model. A normaliser that is not the identity is replaced by it, with a warning. Throws
// Error(kData) when the model has no byte pieces or no bos or eos: it could not hold every byte string.
std::unique_ptr<Tokenizer> make_sentencepiece(const std::string& model, const std::string& where);

// Trains BPE with byte fallback on the texts; returns the bytes of the model. One thread, and a pure function
// of its arguments. The vocabulary comes out smaller than asked for when the texts do not have that many
// pieces.
std::string train_sentencepiece(const std::vector<std::string>& texts, int vocab_size);

}  // namespace cadre::data
