// What the kernels of one queue keep between calls: scratch memory, and cuBLASLt's plans. Contracts of kernels
// say that nothing allocates inside a step: memory grows in the first steps only, and plans are found once per
// shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace cadre::device::cuda {

// Device memory for the time of one call on a queue's stream. Old blocks live on, so that a captured graph
// that uses them stays right.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  // At least `bytes`, aligned to 256, of undefined content; valid until the next call.
  std::byte* take(size_t bytes);

 private:
  std::vector<void*> blocks_;
  size_t size_ = 0;  // of the last block
};

struct GemmPlan;
// What decides how a matrix product runs.
struct GemmKey {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  int type_in, type_out;                    // cudaDataType_t
  std::array<int, 4> alignment;             // of A, B, C, D in bytes
  int batch = 1;                            // products, each operand's matrices one after the other
  bool shared_a = false, shared_b = false;  // one matrix for all of them
  auto operator<=>(const GemmKey&) const = default;
};

class GemmPlans {
 public:
  GemmPlans();
  ~GemmPlans();
  GemmPlans(const GemmPlans&) = delete;
  GemmPlans& operator=(const GemmPlans&) = delete;
  // D = alpha op(A) op(B) + beta C, row-major and contiguous, key's m and n those of D. C may be D.
  void run(cudaStream_t stream, GemmKey key, float alpha, const void* a, const void* b, float beta,
           const void* c, void* d);

 private:
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<GemmKey, std::unique_ptr<GemmPlan>> plans_;
};

class CudnnAttention;

struct KernelState {
  Scratch scratch;
  GemmPlans gemm;
  std::shared_ptr<CudnnAttention> attention;  // made at first use, in builds with cudnn-frontend
};

}  // namespace cadre::device::cuda
