// How many files this process may have open: a socket to each other rank, a file of each shard of the data.
#pragma once

namespace cadre::launch {

// Programs that we start, and theirs, close all that they could have open one by one.
inline constexpr long kMostOpenFiles = 1 << 20;
// As many of those as the system allows. Shells and sites start processes with a lower limit, often 1024, which each may raise.
void raise_open_files();

}  // namespace cadre::launch
