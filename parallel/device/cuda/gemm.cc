// GEMM through cuBLASLt. Its heuristic's first choice is taken, once per shape: trying several by time would
// let two runs of one program differ in bits.
#include <algorithm>
#include <cassert>
#include <stdexcept>

#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/kernel_state.h"
#include "parallel/device/cuda/kernels_cuda.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::device::cuda {

namespace {

constexpr size_t kWorkspaceBytes = size_t(64)
                                   << 20;  // cuBLASLt asks for 32 MiB on Hopper; split-k may use more

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string("cuBLASLt: ") + cublasGetStatusString(status) + " in " + what);
}

// More than 16 changes nothing: 16 is what vector loads and bulk copies need.
int alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return int(std::min<uintptr_t>(address & (~address + 1), 16));
}

template <class T>
constexpr int kType = std::is_same_v<T, float> ? int(CUDA_R_32F) : int(CUDA_R_16BF);

}  // namespace

struct GemmPlan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm;

  GemmPlan(cublasLtHandle_t handle, const GemmKey& key);
  ~GemmPlan() {
    for (cublasLtMatrixLayout_t layout : {a, b, c}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(operation);
  }
  GemmPlan(const GemmPlan&) = delete;
  GemmPlan& operator=(const GemmPlan&) = delete;

 private:
  void choose(cublasLtHandle_t handle, const GemmKey& key);
};

// A row-major matrix is the transpose of the column-major one in the same memory, so the library computes
// C^T = op(B)^T op(A)^T: its first operand is our B.
GemmPlan::GemmPlan(cublasLtHandle_t handle, const GemmKey& key) {
  const cublasOperation_t first = key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  check_blas(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
  check_blas(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first),
             "transposition");
  check_blas(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second),
             "transposition");
  const auto layout = [](int type, int64_t rows, int64_t cols) {
    cublasLtMatrixLayout_t result = nullptr;
    check_blas(
        cublasLtMatrixLayoutCreate(&result, cudaDataType_t(type), uint64_t(cols), uint64_t(rows), cols),
        "layout");
    return result;
  };
  a = key.transpose_a ? layout(key.type_in, key.k, key.m) : layout(key.type_in, key.m, key.k);
  b = key.transpose_b ? layout(key.type_in, key.n, key.k) : layout(key.type_in, key.k, key.n);
  c = layout(key.type_out, key.m, key.n);
  choose(handle, key);
}

void GemmPlan::choose(cublasLtHandle_t handle, const GemmKey& key) {
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
               "preference");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kWorkspaceBytes));
  // A sum that is split over k is made in float, not in the type of the output.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(key.alignment[1]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(key.alignment[0]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(key.alignment[2]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(key.alignment[3]));
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, operation, b, a, c, c, preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  check_blas(count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status, "heuristic");
  algorithm = found.algo;
}

GemmPlans::GemmPlans() = default;

GemmPlans::~GemmPlans() {
  plans_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
  cudaFree(workspace_);
}

const GemmPlan& GemmPlans::plan(const GemmKey& key) {
  if (handle_ == nullptr) {
    check_blas(cublasLtCreate(&handle_), "create");
    workspace_ = accelerator_cuda().allocate(kWorkspaceBytes);
  }
  std::unique_ptr<GemmPlan>& entry = plans_[key];
  if (entry == nullptr) entry = std::make_unique<GemmPlan>(handle_, key);
  return *entry;
}

void GemmPlans::run(cudaStream_t stream, GemmKey key, float alpha, const void* a, const void* b, float beta,
                    const void* c, void* d) {
  key.alignment = {alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(d)};
  const GemmPlan& p = plan(key);
  check_blas(cublasLtMatmul(handle_, p.operation, &alpha, b, p.b, a, p.a, &beta, c, p.c, d, p.c, &p.algorithm,
                            workspace_, kWorkspaceBytes, stream),
             "matmul");
}

template <class T>
void CudaKernels<T>::gemm(Queue& queue, View<const T, 2> a, View<const T, 2> b, View<T, 2> c,
                          GemmFlags flags) {
  const int64_t m = c.dim(0), n = c.dim(1), k = flags.transpose_a ? a.dim(0) : a.dim(1);
  assert((flags.transpose_a ? a.dim(1) : a.dim(0)) == m);
  assert((flags.transpose_b ? b.dim(0) : b.dim(1)) == n && (flags.transpose_b ? b.dim(1) : b.dim(0)) == k);
  if (m == 0 || n == 0) return;
  if (k == 0) return scale(queue, c.template reshape<1>({m * n}), flags.beta);
  auto& on = static_cast<CudaQueue&>(queue);
  const GemmKey key{m, n, k, flags.transpose_a, flags.transpose_b, kType<T>, kType<T>, {}};
  on.state().gemm.run(on.stream(), key, float(flags.alpha), a.data(), b.data(), float(flags.beta), c.data(),
                      c.data());
}

template struct CudaKernels<float>;  // the member defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
