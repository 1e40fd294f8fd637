// Plain bytes: id b is byte b, 256 starts a document, 257 ends it.
#pragma once

#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace cadre::data {

std::unique_ptr<Tokenizer> read_byte_tokenizer(const std::string& definition, const std::string& where);

}  // namespace cadre::data
