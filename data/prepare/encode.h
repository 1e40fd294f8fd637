// Pass 4: reads every unit again and writes the tokens of its kept documents.
#pragma once

#include "data/prepare/select.h"
#include "data/prepare/work.h"
#include "data/tokenizer.h"

namespace cadre::data {

// Collective. Throws Error(kData) when an input is not what the scan saw.
void encode(const Work& work, const Choices& choices, const Tokenizer& tokenizer);

// As in shards: two bytes a token where they are enough.
inline bool is_narrow(const Tokenizer& tokenizer) {
  return tokenizer.vocab_size() <= 65536;
}

}  // namespace cadre::data
