// What dispatchers share whose rows have their places before a router has chosen (gather, copy, peer): row rank * max_tokens + token,
// so that the host needs no counts.
#pragma once

#include "moe/dispatch.h"

namespace cadre::moe {

// Throws Error(kUsage) for routers with hints and for more rows or slots than an int32 counts. name: of moe.dispatch.
void require_known_places(const DispatchShape& shape, int64_t ranks, const char* name);

// Experts of which a rank holds all or, with DispatchShape::widths, a part: so many, from which number on.
int64_t experts_of_a_rank(const DispatchShape& shape, int64_t ranks);
int first_expert(const DispatchShape& shape, int64_t ranks, int rank);
// The most slots that a rank's experts can get.
int64_t most_slots(const DispatchShape& shape, int64_t ranks);

}  // namespace cadre::moe
