// Whether one_gpu_nccl.cc stands before NCCL, so that ranks may share a GPU.
#pragma once

#include <dlfcn.h>

namespace cadre::comm {

inline bool ranks_may_share_a_gpu() {
  return dlsym(RTLD_DEFAULT, "cadre_one_gpu_nccl") != nullptr;
}

}  // namespace cadre::comm
