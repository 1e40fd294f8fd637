#include "parallel/device/cuda/stream_values.h"

#include <cudaTypedefs.h>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/driver_function.h"

namespace cadre::device::cuda {
namespace {

constexpr unsigned kMemoryOperations = 11070;  // the version of CUDA that they have their present form from

}  // namespace

void write_value(cudaStream_t stream, uint64_t* address, uint64_t value) {
  static const auto write =
      driver_function<PFN_cuStreamWriteValue64_v11070>("cuStreamWriteValue64", kMemoryOperations);
  const CUresult result = write(stream, CUdeviceptr(address), value, CU_STREAM_WRITE_VALUE_DEFAULT);
  require(result == CUDA_SUCCESS, ExitCode::kComm, "a GPU's stream cannot signal (CUDA error {})",
          int(result));
}

void wait_value(cudaStream_t stream, uint64_t* address, uint64_t at_least) {
  static const auto wait =
      driver_function<PFN_cuStreamWaitValue64_v11070>("cuStreamWaitValue64", kMemoryOperations);
  const CUresult result = wait(stream, CUdeviceptr(address), at_least, CU_STREAM_WAIT_VALUE_GEQ);
  require(result == CUDA_SUCCESS, ExitCode::kComm, "a GPU's stream cannot wait for a signal (CUDA error {})",
          int(result));
}

}  // namespace cadre::device::cuda
