// What utilisation is measured against.
#pragma once

#include <cstdint>

#include "trainer/run/model_state.h"

namespace cadre::trainer {

// FLOP/s of all ranks together: SGEMM as measured now (under a second) on CPUs, the data sheet's on GPUs. Collective.
double peak_flops(ModelState& model);

// FLOP/s of one product of two n x n matrices with `threads` BLAS threads; the best of `repeats` after one
// warm-up.
double sgemm_flops(int64_t n, int threads, int repeats);

}  // namespace cadre::trainer
