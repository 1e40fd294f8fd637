#include "parallel/device/cuda/kernel_trace_cuda.h"

#if CADRE_CUPTI

#include <cuda_runtime_api.h>
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <mutex>

#include "parallel/base/errors.h"

namespace cadre::device::cuda {
namespace {

// The functions of libcupti that are used here.
struct Cupti {
  void* library = nullptr;
  decltype(&cuptiGetVersion) version = nullptr;
  decltype(&cuptiGetTimestamp) timestamp = nullptr;
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next = nullptr;
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// Null with a reason when there is none, or one whose records look different.
const Cupti* cupti(std::string& why_not) {
  static const Cupti loaded = [] {
    Cupti c;
    const std::string plain = fmt::format("libcupti.so.{}", CUDART_VERSION / 1000);
    for (const std::string& name : {plain, std::string(CADRE_CUPTI_FOLDER "/") + plain}) {
      if (c.library == nullptr) c.library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    const bool whole = c.library != nullptr && find(c.library, "cuptiGetVersion", c.version) &&
                       find(c.library, "cuptiGetTimestamp", c.timestamp) &&
                       find(c.library, "cuptiActivityRegisterCallbacks", c.register_callbacks) &&
                       find(c.library, "cuptiActivityEnable", c.enable) &&
                       find(c.library, "cuptiActivityDisable", c.disable) &&
                       find(c.library, "cuptiActivityFlushAll", c.flush) &&
                       find(c.library, "cuptiActivityGetNextRecord", c.next);
    if (!whole) c.library = nullptr;
    return c;
  }();
  if (loaded.library == nullptr) {
    why_not = fmt::format("libcupti.so.{} is not found here", CUDART_VERSION / 1000);
    return nullptr;
  }
  constexpr uint32_t kPerMajor = 10000;
  uint32_t version = 0;
  if (loaded.version(&version) != CUPTI_SUCCESS || version / kPerMajor != CUPTI_API_VERSION / kPerMajor) {
    why_not = fmt::format("libcupti has version {}, this build needs {}", version, CUPTI_API_VERSION);
    return nullptr;
  }
  return &loaded;
}

std::string plain_name(const char* mangled) {
  if (mangled == nullptr) return "kernel";
  int status = 0;
  char* const text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? text : mangled;
  std::free(text);
  return name;
}

const char* copy_name(uint8_t kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD:
      return "copy to the device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH:
      return "copy to the host";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD:
      return "copy on the device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_PTOP:
      return "copy between devices";
    default:
      return "copy";
  }
}

// What CUPTI's callbacks know: they get no pointer of ours, and come from a thread of its own.
struct Records {
  std::mutex lock;
  const Cupti* cupti = nullptr;  // while a trace is under way
  std::vector<KernelSpan> spans;
};
Records records;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  constexpr size_t kBytes = size_t(1) << 20, kAlignment = 8;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, kBytes));
  *size = *buffer != nullptr ? kBytes : 0;
  *max_records = 0;  // as many as fit
}

void add(const CUpti_Activity* activity) {
  if (activity->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    const auto* k = reinterpret_cast<const CUpti_ActivityKernel10*>(activity);
    records.spans.push_back({plain_name(k->name), k->streamId, int64_t(k->start), int64_t(k->end), 0});
  } else if (activity->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const auto* c = reinterpret_cast<const CUpti_ActivityMemcpy6*>(activity);
    records.spans.push_back(
        {copy_name(c->copyKind), c->streamId, int64_t(c->start), int64_t(c->end), c->bytes});
  } else if (activity->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
    const auto* m = reinterpret_cast<const CUpti_ActivityMemset4*>(activity);
    records.spans.push_back({"set memory", m->streamId, int64_t(m->start), int64_t(m->end), m->bytes});
  }
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  {
    const std::lock_guard guard(records.lock);
    CUpti_Activity* activity = nullptr;
    while (records.cupti != nullptr && valid > 0 &&
           records.cupti->next(buffer, valid, &activity) == CUPTI_SUCCESS)
      add(activity);
  }
  std::free(buffer);
}

constexpr std::array kKinds = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                               CUPTI_ACTIVITY_KIND_MEMSET};

class CuptiTrace : public KernelTrace {
 public:
  explicit CuptiTrace(const Cupti& cupti) : cupti_(cupti) {}
  ~CuptiTrace() override { stop(); }

  // Empty, or what went wrong.
  std::string start() {
    const std::lock_guard guard(records.lock);
    if (records.cupti != nullptr) return "kernels are being recorded already";
    uint64_t now = 0;
    bool good = cupti_.register_callbacks(give_buffer, take_buffer) == CUPTI_SUCCESS &&
                cupti_.timestamp(&now) == CUPTI_SUCCESS;
    const auto steady = std::chrono::steady_clock::now().time_since_epoch();
    to_steady_ns_ = std::chrono::duration_cast<std::chrono::nanoseconds>(steady).count() - int64_t(now);
    for (const CUpti_ActivityKind kind : kKinds) good = good && cupti_.enable(kind) == CUPTI_SUCCESS;
    if (!good) {
      for (const CUpti_ActivityKind kind : kKinds) (void)cupti_.disable(kind);
      return "CUPTI cannot record kernels here (another profiler, or no permission?)";
    }
    records.spans.clear();
    records.cupti = &cupti_;
    started_ = true;
    return "";
  }

  std::vector<KernelSpan> finish() override {
    stop();
    const std::lock_guard guard(records.lock);
    std::vector<KernelSpan> spans = std::move(records.spans);
    records.spans = {};
    for (KernelSpan& span : spans) {
      span.begin_ns += to_steady_ns_;
      span.end_ns += to_steady_ns_;
    }
    std::sort(spans.begin(), spans.end(), [](const KernelSpan& a, const KernelSpan& b) {
      return std::pair(a.begin_ns, a.stream) < std::pair(b.begin_ns, b.stream);
    });
    return spans;
  }

 private:
  void stop() {
    if (!started_) return;
    started_ = false;
    (void)cudaDeviceSynchronize();  // its error is that of the work, which reports it itself
    (void)cupti_.flush(0);          // calls take_buffer
    for (const CUpti_ActivityKind kind : kKinds) (void)cupti_.disable(kind);
    const std::lock_guard guard(records.lock);
    records.cupti = nullptr;
  }

  const Cupti& cupti_;
  bool started_ = false;
  int64_t to_steady_ns_ = 0;
};

}  // namespace

TraceStart trace_kernels() {
  TraceStart result;
  const Cupti* const functions = cupti(result.why_not);
  if (functions == nullptr) return result;
  auto trace = std::make_unique<CuptiTrace>(*functions);
  result.why_not = trace->start();
  if (result.why_not.empty()) result.trace = std::move(trace);
  return result;
}

}  // namespace cadre::device::cuda

#else

namespace cadre::device::cuda {

TraceStart trace_kernels() {
  return {nullptr, "this build was made without CUPTI's headers"};
}

}  // namespace cadre::device::cuda

#endif
