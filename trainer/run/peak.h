// The SGEMM peak of this process: what utilisation is measured against on a CPU.
#pragma once

#include <cstdint>

namespace cadre::trainer {

// FLOP/s of one product of two n x n matrices with `threads` BLAS threads; the best of `repeats` after one
// warm-up.
double sgemm_flops(int64_t n, int threads, int repeats);

}  // namespace cadre::trainer
