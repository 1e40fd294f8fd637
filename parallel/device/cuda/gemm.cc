// GEMM through cuBLASLt. For a large shape that is used often the fastest of several algorithms is taken, once, among those
// that give the bits of the heuristic's first choice: so the choice, which is made by time, never changes a result, nor does
// when it is made. Algorithms that add up along k in the same order do; those that split k differ and are passed over.
#include <algorithm>
#include <cassert>
#include <stdexcept>

#include "parallel/device/cuda/accelerator_cuda.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/equal_bits.h"
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

// Of a product that is worth trying: 2^29 multiply-adds take a GPU a few microseconds.
constexpr double kTunedWork = double(1 << 29);
constexpr int kCandidates = 10, kRepeats = 3;
// Uses of one shape and their multiply-adds, a millisecond or so, before the trials, which take sixty uses. Batches of samples
// and of answers have another number of tokens each, and shapes that come once would be tried for nothing; layers reach
// both in their first steps.
constexpr double kOftenUsed = double(int64_t(1) << 38);
constexpr int kUses = 4;
constexpr double kGain = 0.98;  // of the time so far, to change the choice
// A workspace has to be cleared, which is a launch of its own: the gap before it is not in the time between two events.
constexpr double kGapMs = 0.002;

double work_of(const GemmKey& key) {
  return double(key.batch) * double(key.m) * double(key.n) * double(key.k);
}

// Operands that say nothing about the order of sums are looked at again after so much more work.
constexpr double kLookAgain = 16 * kOftenUsed;

// Milliseconds on the device.
class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event));
  }
  ~Timer() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  template <class F>
  double ms(const F& work) {
    check(cudaEventRecord(events_[0], stream_));
    work();
    check(cudaEventRecord(events_[1], stream_));
    check(cudaEventSynchronize(events_[1]));
    float result = 0;
    check(cudaEventElapsedTime(&result, events_[0], events_[1]));
    return result;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t events_[2];
};

template <class T>
constexpr int kType = std::is_same_v<T, float> ? int(CUDA_R_32F) : int(CUDA_R_16BF);

size_t bytes_of(int type) {
  return type == int(CUDA_R_32F) ? sizeof(float) : sizeof(bf16);
}

}  // namespace

// One call: D = alpha op(A) op(B) + beta C.
struct GemmCall {
  cudaStream_t stream;
  float alpha, beta;
  const void *a, *b, *c;
  void *d, *workspace;
};

struct GemmPlan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulHeuristicResult_t algorithm;

  GemmPlan(cublasLtHandle_t handle, const GemmKey& key);
  ~GemmPlan() {
    for (cublasLtMatrixLayout_t layout : {a, b, c}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(operation);
  }
  GemmPlan(const GemmPlan&) = delete;
  GemmPlan& operator=(const GemmPlan&) = delete;

  // Before a call: tries the candidates when they are worth it.
  void count_use(cublasLtHandle_t handle, const GemmKey& key, const GemmCall& call);
  void run(cublasLtHandle_t handle, const GemmCall& call, const cublasLtMatmulHeuristicResult_t& with) const {
    check_blas(cublasLtMatmul(handle, operation, &call.alpha, call.b, b, call.a, a, &call.beta, call.c, c,
                              call.d, c, &with.algo, with.workspaceSize > 0 ? call.workspace : nullptr,
                              with.workspaceSize > 0 ? kWorkspaceBytes : 0, call.stream),
               "matmul");
  }

 private:
  std::vector<cublasLtMatmulHeuristicResult_t> candidates(cublasLtHandle_t handle, const GemmKey& key,
                                                          int most, size_t workspace) const;
  void choose(cublasLtHandle_t handle, const GemmKey& key, const GemmCall& call);
  static bool tells_orders_apart(const GemmKey& key, const GemmCall& call);

  std::vector<cublasLtMatmulHeuristicResult_t> untried_;  // the first is in use
  double done_ = 0;                                       // multiply-adds so far, while there are some
  int uses_ = 0;                                          // likewise
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
  const auto layout = [&key](int type, int64_t rows, int64_t cols, bool shared) {
    cublasLtMatrixLayout_t result = nullptr;
    check_blas(
        cublasLtMatrixLayoutCreate(&result, cudaDataType_t(type), uint64_t(cols), uint64_t(rows), cols),
        "layout");
    if (key.batch == 1) return result;
    const int32_t count = key.batch;
    const int64_t stride = shared ? 0 : rows * cols;
    check_blas(
        cublasLtMatrixLayoutSetAttribute(result, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
        "batch");
    check_blas(cublasLtMatrixLayoutSetAttribute(result, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                                sizeof stride),
               "stride");
    return result;
  };
  a = key.transpose_a ? layout(key.type_in, key.k, key.m, key.shared_a)
                      : layout(key.type_in, key.m, key.k, key.shared_a);
  b = key.transpose_b ? layout(key.type_in, key.n, key.k, key.shared_b)
                      : layout(key.type_in, key.k, key.n, key.shared_b);
  c = layout(key.type_out, key.m, key.n, false);
  const bool large = work_of(key) >= kTunedWork;
  untried_ = candidates(handle, key, large ? kCandidates : 1, kWorkspaceBytes);
  check_blas(untried_.empty() ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS, "heuristic");
  algorithm = untried_[0];
  if (!large) untried_.clear();
}

// Nothing can be tried while the stream's work is being recorded.
void GemmPlan::count_use(cublasLtHandle_t handle, const GemmKey& key, const GemmCall& call) {
  if (untried_.empty()) return;
  done_ += work_of(key);
  if (++uses_ < kUses || done_ < kOftenUsed) return;
  cudaStreamCaptureStatus recording = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(call.stream, &recording));
  if (recording != cudaStreamCaptureStatusNone) return;
  if (!tells_orders_apart(key, call)) {
    uses_ = 0;
    done_ = kOftenUsed - kLookAgain;
    return;
  }
  choose(handle, key, call);
  untried_.clear();
}

// Of operands that are nearly all 0, as gradients are when all samples of a batch were rewarded alike, every order of adding
// up gives the same bits. A choice by time among all algorithms would then differ from run to run, and later bits with it.
bool GemmPlan::tells_orders_apart(const GemmKey& key, const GemmCall& call) {
  const auto bytes = [&](int64_t side, bool shared) {
    return size_t(shared ? 1 : key.batch) * size_t(side) * size_t(key.k) * bytes_of(key.type_in);
  };
  return has_many_values(call.stream, call.a, bytes(key.m, key.shared_a)) &&
         has_many_values(call.stream, call.b, bytes(key.n, key.shared_b));
}

// Best first, by the library's own estimate.
std::vector<cublasLtMatmulHeuristicResult_t> GemmPlan::candidates(cublasLtHandle_t handle, const GemmKey& key,
                                                                  int most, size_t workspace) const {
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
               "preference");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(workspace));
  // A sum that is split over k is made in float, not in the type of the output.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(key.alignment[1]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(key.alignment[0]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(key.alignment[2]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(key.alignment[3]));
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(most));
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, operation, b, a, c, c, preference, most, found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS) count = 0;
  found.resize(size_t(count));
  return found;
}

void GemmPlan::choose(cublasLtHandle_t handle, const GemmKey& key, const GemmCall& call) {
  std::vector<cublasLtMatmulHeuristicResult_t> all = untried_;
  // Those that need no workspace need no clearing of it either, which is a launch of its own.
  for (const cublasLtMatmulHeuristicResult_t& more : candidates(handle, key, kCandidates / 2, 0))
    all.push_back(more);
  const size_t bytes = size_t(key.batch) * size_t(key.m) * size_t(key.n) * bytes_of(key.type_out);
  const auto memory = [](size_t n) {
    void* p = nullptr;
    if (cudaMalloc(&p, n) != cudaSuccess) cudaGetLastError();  // too full to try: the first choice serves
    return std::unique_ptr<void, cudaError_t (*)(void*)>(p, cudaFree);
  };
  const auto first = memory(bytes), other = memory(bytes);
  if (first == nullptr || other == nullptr) return;
  GemmCall trial = call;
  Timer timer(call.stream);
  double best = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    trial.d = i == 0 ? first.get() : other.get();
    try {
      run(handle, trial, all[i]);
    } catch (const std::runtime_error&) {
      if (i == 0) throw;
      continue;
    }
    if (i > 0 && !equal_bits(call.stream, first.get(), other.get(), bytes)) continue;
    const bool cleared = all[i].workspaceSize > 0;
    double ms = 1e30;
    for (int repeat = 0; repeat < kRepeats; ++repeat)
      ms = std::min(ms, timer.ms([&] { run(handle, trial, all[i]); }));
    if (cleared) ms += kGapMs;
    const bool one_launch_less = !cleared && algorithm.workspaceSize > 0;
    if (i > 0 && ms > (one_launch_less ? 1 : kGain) * best) continue;
    best = ms;
    algorithm = all[i];
  }
}

GemmPlans::GemmPlans() = default;

GemmPlans::~GemmPlans() {
  plans_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
  cudaFree(workspace_);
}

void GemmPlans::run(cudaStream_t stream, GemmKey key, float alpha, const void* a, const void* b, float beta,
                    const void* c, void* d) {
  key.alignment = {alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(d)};
  if (handle_ == nullptr) {
    check_blas(cublasLtCreate(&handle_), "create");
    workspace_ = accelerator_cuda().allocate(kWorkspaceBytes);
  }
  const GemmCall call{stream, alpha, beta, a, b, c, d, workspace_};
  std::unique_ptr<GemmPlan>& entry = plans_[key];
  if (entry == nullptr) entry = std::make_unique<GemmPlan>(handle_, key);
  entry->count_use(handle_, key, call);
  entry->run(handle_, call, entry->algorithm);
}

template <class T>
void CudaKernels<T>::gemm(Queue& queue, View<const T, 2> a, View<const T, 2> b, View<T, 2> c,
                          GemmFlags flags) {
  gemm_onto(queue, a, b, c, c, flags);
}

template <class T>
void CudaKernels<T>::gemm_onto(Queue& queue, View<const T, 2> a, View<const T, 2> b, View<const T, 2> plus,
                               View<T, 2> c, GemmFlags flags) {
  const int64_t m = c.dim(0), n = c.dim(1), k = flags.transpose_a ? a.dim(0) : a.dim(1);
  assert((flags.transpose_a ? a.dim(1) : a.dim(0)) == m);
  assert((flags.transpose_b ? b.dim(0) : b.dim(1)) == n && (flags.transpose_b ? b.dim(1) : b.dim(0)) == k);
  assert(flags.beta == 0 || plus.shape() == c.shape());
  if (m == 0 || n == 0) return;
  if (k == 0) {
    const View<T, 1> flat = c.template reshape<1>({m * n});
    if (plus.data() != c.data() && flags.beta != 0) copy(queue, plus.template reshape<1>({m * n}), flat);
    return scale(queue, flat, flags.beta);
  }
  auto& on = static_cast<CudaQueue&>(queue);
  const GemmKey key{m, n, k, flags.transpose_a, flags.transpose_b, kType<T>, kType<T>, {}};
  on.state().gemm.run(on.stream(), key, float(flags.alpha), a.data(), b.data(), float(flags.beta),
                      plus.data(), c.data());
}

// A batch of which no operand is wide enough for 16-byte loads runs as single products: only the first matrix's
// alignment is known to the library.
template <class T>
void CudaKernels<T>::gemm_batch(Queue& queue, View<const T, 3> a, View<const T, 3> b, View<T, 3> c,
                                GemmFlags flags) {
  const int64_t count = c.dim(0), m = c.dim(1), n = c.dim(2), k = flags.transpose_a ? a.dim(1) : a.dim(2);
  assert((a.dim(0) == 1 || a.dim(0) == count) && (b.dim(0) == 1 || b.dim(0) == count));
  constexpr int64_t kWide = 16 / sizeof(T);
  const bool whole = m * k % kWide == 0 && k * n % kWide == 0 && m * n % kWide == 0;
  if (count == 1 || !whole || m * n * k == 0) {
    for (int64_t i = 0; i < count; ++i)
      gemm(queue, a[a.dim(0) > 1 ? i : 0], b[b.dim(0) > 1 ? i : 0], c[i], flags);
    return;
  }
  auto& on = static_cast<CudaQueue&>(queue);
  const GemmKey key{m,        n,  k,          flags.transpose_a, flags.transpose_b, kType<T>,
                    kType<T>, {}, int(count), a.dim(0) == 1,     b.dim(0) == 1};
  on.state().gemm.run(on.stream(), key, float(flags.alpha), a.data(), b.data(), float(flags.beta), c.data(),
                      c.data());
}

template struct CudaKernels<float>;  // the members defined above
template struct CudaKernels<bf16>;

}  // namespace cadre::device::cuda
