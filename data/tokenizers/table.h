// The table of tokenizers: what a saved one is made from again. A new tokenizer is a file here and a row in
// table.cc.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "parallel/base/table.h"

namespace cadre::data {

// From the bytes of definition(). `where` names their source in messages. Throws Error(kData).
using TokenizerMaker = std::unique_ptr<Tokenizer> (*)(const std::string& definition,
                                                      const std::string& where);

const std::vector<base::Entry<TokenizerMaker>>& tokenizer_table();

}  // namespace cadre::data
