#include "moe/cuda/slots.cu"

namespace cadre::moe::cuda {
namespace {

thread_local uint32_t marks[8192];
const emulated::DynamicShared kMarks(marks, sizeof(marks));

}  // namespace
}  // namespace cadre::moe::cuda
