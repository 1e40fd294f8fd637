#include "parallel/device/cuda/place_heads.cu"

namespace cadre::device::cuda {
namespace {

thread_local float scale[1024];
const emulated::DynamicShared kScale(scale, sizeof(scale));

}  // namespace
}  // namespace cadre::device::cuda
