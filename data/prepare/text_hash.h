// The hash by which prepare knows a text.
#pragma once

#include <string_view>

#include "data/shard.h"

namespace cadre::data {

DocHash hash_text(std::string_view text);  // first 16 bytes of its SHA-256

}  // namespace cadre::data
