// Pass 5: cuts the tokens of all units into shards. Documents keep the order of the input; a shard ends
// before the document that would take it above the wanted number of tokens.
#pragma once

#include <filesystem>
#include <vector>

#include "data/manifest.h"
#include "data/prepare/select.h"
#include "data/prepare/work.h"
#include "data/tokenizer.h"

namespace cadre::data {

// Collective. Writes whole shards to the work folder and returns the manifest that lists them, the same on
// every rank.
Manifest assemble(const Work& work, const Choices& choices, const Tokenizer& tokenizer);

// Bytes that one shard under construction takes at most, when no document is larger than a shard.
uint64_t shard_memory(int64_t shard_tokens);

}  // namespace cadre::data
