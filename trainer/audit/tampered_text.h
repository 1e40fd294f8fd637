// Text that the null controls tamper with (controls.h).
#pragma once

#include <string>

#include "trainer/run/dataset.h"

namespace cadre::audit {

constexpr const char* kCopy = " (copy)";  // behind the name of the domain that is there twice
constexpr const char* kJunk = "junk";     // the domain of shuffled tokens

// control: permuted, duplicated, junk or target. `passage`: documents are cut into passages of so many tokens, each a
// document; 0: whole. `domain` is the one that is duplicated or aimed at. Borrows the set. Throws Error(kData) without
// held-out text.
trainer::Dataset tampered(const std::string& control, const trainer::Dataset& set, int64_t passage,
                          int domain, uint64_t seed);

}  // namespace cadre::audit
