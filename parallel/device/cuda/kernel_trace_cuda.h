// Kernels through CUPTI's activity records. The library is looked for when a trace begins and not linked, so that programs start on
// machines without it.
#pragma once

#include "parallel/device/kernel_trace.h"

namespace cadre::device::cuda {

TraceStart trace_kernels();

}  // namespace cadre::device::cuda
