// Whether the current device can run the code that this build holds.
#pragma once

namespace cadre::device::cuda {

// Device code is built for fixed targets (CadreCuda.cmake); on any other GPU every launch would fail.
bool has_code_for_current_device();

}  // namespace cadre::device::cuda
