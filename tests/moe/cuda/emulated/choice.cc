#include "moe/cuda/choice.cu"

namespace cadre::moe::cuda {
namespace {

thread_local uint32_t marks[4 * 256];
const emulated::DynamicShared kMarks(marks, sizeof(marks));

}  // namespace
}  // namespace cadre::moe::cuda
