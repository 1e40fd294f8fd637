// What dispatchers share whose rows have their places before a router has chosen (gather, peer): row rank * max_tokens + token,
// so that the host needs no counts.
#pragma once

#include "moe/dispatch.h"

namespace cadre::moe {

// Throws Error(kUsage) for routers with hints and for more rows or slots than an int32 counts. name: of moe.dispatch.
void require_known_places(const DispatchShape& shape, int64_t ranks, const char* name);

// The most slots that a rank's experts can get.
int64_t most_slots(const DispatchShape& shape, int64_t ranks);

}  // namespace cadre::moe
