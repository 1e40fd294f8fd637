#include "moe/cuda/few_slots.cu"

namespace cadre::moe::cuda {
namespace {

thread_local uint32_t marks[kSharedWords];
thread_local int32_t cursors[kSharedWords];
const emulated::DynamicShared kMarks(marks, sizeof(marks)), kCursors(cursors, sizeof(cursors));

}  // namespace
}  // namespace cadre::moe::cuda
