// Near duplicates by MinHash and locality-sensitive hashing; the rule stands in select.h.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/prepare/work.h"

namespace cadre::data {

// Sets choices of near duplicates. first: (units + 1) index of each unit's first document; memory_bytes
// bounds the table.
void mark_near_duplicates(const Work& work, std::span<const int64_t> first, uint64_t memory_bytes,
                          std::vector<Choice>& choices);

}  // namespace cadre::data
