// Which GPUs can run the code that this build holds.
#pragma once

namespace cadre::device::cuda {

// Device code is built for fixed targets (CadreCuda.cmake); on a GPU that runs none of them every launch would fail. Asks no
// device: an answer of its own would take a context there, some hundred MiB on every GPU of a host for each of its ranks, and
// a GPU that belongs to one process alone refuses it.
bool has_code_for(int major, int minor);

}  // namespace cadre::device::cuda
