// `cadre prepare --kind instruction | preference | prompts`: JSONL of conversations, pairs or prompts in (chat_lines.h), shards and a
// manifest out. One pass on rank 0; these sets are small beside text. Equal examples stay once. An example is held out when
// the hash of its prompt says so, so that all answers to one prompt are in one split.
#pragma once

#include "data/prepare/prepare.h"

namespace cadre::data {

// Collective over the world; the manifest is the same on every rank, the report stands on rank 0.
PrepareResult prepare_chat_set(const PrepareOptions& options, comm::World& world);

}  // namespace cadre::data
