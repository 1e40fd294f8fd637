#include "parallel/device/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include <stdexcept>

#include "parallel/device/cuda/driver_function.h"

namespace cadre::device::cuda {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto kFunction =
      driver_function<PFN_cuTensorMapEncodeTiled_v12000>("cuTensorMapEncodeTiled", 12000);
  return kFunction;
}

}  // namespace

CUtensorMap tensor_map(const bf16* data, int64_t z, int64_t y, int64_t x, int box_y) {
  CUtensorMap map;
  const cuuint64_t sizes[3] = {cuuint64_t(x), cuuint64_t(y), cuuint64_t(z)};
  const cuuint64_t strides[2] = {cuuint64_t(x) * 2, cuuint64_t(x) * cuuint64_t(y) * 2};
  const cuuint32_t box[3] = {64, cuuint32_t(box_y), 1}, steps[3] = {1, 1, 1};
  const CUresult status =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<bf16*>(data), sizes, strides, box,
                steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) throw std::runtime_error("cuTensorMapEncodeTiled refused a tensor");
  return map;
}

}  // namespace cadre::device::cuda
