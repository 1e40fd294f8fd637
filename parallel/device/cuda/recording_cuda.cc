#include "parallel/device/cuda/recording_cuda.h"

#include <cuda_runtime_api.h>

#include <exception>
#include <string>

#include "parallel/base/log.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::device::cuda {
namespace {

class CudaRecording final : public Recording {
 public:
  explicit CudaRecording(CudaQueue& queue) : queue_(queue) {}
  ~CudaRecording() override {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }

  void run(absl::FunctionRef<void()> body) override {
    if (graph_ == nullptr && runs_++ == 1) record(body);
    if (graph_ == nullptr) return body();
    check(cudaGraphLaunch(graph_, queue_.stream()));
    queue_.add_replay();
  }

 private:
  // Nothing that is queued meanwhile runs. Where it fails, the stream is as it was, and the next run calls the body: an
  // error of the work itself then shows as it would have without a record.
  void record(absl::FunctionRef<void()> body) {
    const cudaStream_t stream = queue_.stream();
    std::string why;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    queue_.set_capturing(true);
    try {
      body();
    } catch (const std::exception& error) {
      why = error.what();
    }
    queue_.set_capturing(false);
    cudaGraph_t graph = nullptr;
    cudaError_t status = cudaStreamEndCapture(stream, &graph);
    if (why.empty() && status == cudaSuccess) status = cudaGraphInstantiate(&graph_, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (graph_ != nullptr) return;
    (void)cudaGetLastError();
    if (why.empty()) why = cudaGetErrorString(status);
    spdlog::warn("device: cuda cannot record this work and runs it kernel by kernel: {}", why);
  }

  CudaQueue& queue_;
  cudaGraphExec_t graph_ = nullptr;
  int64_t runs_ = 0;
};

}  // namespace

std::unique_ptr<Recording> make_recording_cuda(Queue& queue) {
  return std::make_unique<CudaRecording>(static_cast<CudaQueue&>(queue));
}

}  // namespace cadre::device::cuda
