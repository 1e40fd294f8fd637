// CUDA's row of the accelerator table. Only the runtime library is used, linked statically: linking the
// driver's library would keep the program from starting on machines without a driver.
#pragma once

#include "parallel/device/accelerator.h"

namespace cadre::device::cuda {

Accelerator accelerator_cuda();

}  // namespace cadre::device::cuda
