#include "parallel/device/cuda/norm.cu"

namespace cadre::device::cuda {
namespace {

thread_local uint4 rows_memory[12288];
const emulated::DynamicShared kRows(rows_memory, sizeof(rows_memory));

}  // namespace
}  // namespace cadre::device::cuda
