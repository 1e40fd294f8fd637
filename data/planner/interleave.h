// The order of a global batch's sequences. Each stream's n sequences are spread evenly over the batch, each
// moved at random within its n-th part: even spreading keeps runs (micro-batches) diverse, the random part
// keeps strides (ranks) diverse, where an exact pattern like abab would give one rank all of a.
#pragma once

#include <cstdint>
#include <vector>

namespace cadre::data {

// The stream of each position, given how many sequences each stream has. A pure function of its arguments.
std::vector<int> interleave(const std::vector<int64_t>& counts, uint64_t key);

}  // namespace cadre::data
