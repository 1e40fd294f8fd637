// Elements of tensors as NCCL knows them.
#pragma once

#include <nccl.h>

#include "parallel/comm/communicator.h"

namespace cadre::comm::nccl {

inline ncclDataType_t nccl_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kByte:
      return ncclUint8;
    case Dtype::kInt32:
      return ncclInt32;
    case Dtype::kInt64:
      return ncclInt64;
    case Dtype::kBf16:
      return ncclBfloat16;
    case Dtype::kFloat:
      return ncclFloat32;
    case Dtype::kDouble:
      return ncclFloat64;
  }
  return ncclUint8;
}

inline std::byte* at(void* data, int64_t elements, Dtype dtype) {
  return static_cast<std::byte*>(data) + elements * int64_t(size_of(dtype));
}
inline const std::byte* at(const void* data, int64_t elements, Dtype dtype) {
  return static_cast<const std::byte*>(data) + elements * int64_t(size_of(dtype));
}

}  // namespace cadre::comm::nccl
