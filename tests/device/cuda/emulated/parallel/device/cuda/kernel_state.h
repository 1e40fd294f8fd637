// Stands for parallel/device/cuda/kernel_state.h on the host: see queue_cuda.h.
#pragma once
