// The commit that this program was built from ("-dirty" when the tree had changes), empty outside a git checkout.
// Defined in a file that each build writes.
#pragma once

namespace cadre::launch {

const char* commit();

}  // namespace cadre::launch
