#include "moe/cuda/grouped_hopper.cc"
#include "moe/cuda/hopper_dgrad.cu"
#include "moe/cuda/hopper_forward.cu"
#include "moe/cuda/hopper_swiglu.cu"
#include "moe/cuda/hopper_wgrad.cu"

namespace cadre::moe::cuda {

thread_local __align__(1024) uint8_t memory[emulated::Machine::kSharedBytes];
const emulated::DynamicShared kMemory(memory, sizeof(memory));

}  // namespace cadre::moe::cuda
