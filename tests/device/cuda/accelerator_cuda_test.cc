// The CUDA seam: what it says without a GPU, and that memory and queues work with one.
#include "parallel/device/cuda/accelerator_cuda.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "parallel/base/errors.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/driver.h"
#include "parallel/device/cuda/image.h"
#include "parallel/device/cuda/queue_cuda.h"
#include "parallel/device/delivery.h"
#include "parallel/device/kernels.h"
#include "parallel/device/memory.h"
#include "parallel/device/recording.h"

namespace cadre::device::cuda {
namespace {

class CudaDevice : public testing::Test {
 protected:
  void SetUp() override {
    const Probe probe = accelerator_cuda().probe();
    if (probe.num_devices == 0) GTEST_SKIP() << probe.report;
  }
};

TEST(CudaProbe, SaysWhatIsThereOrWhyNothingIs) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  const Probe probe = accelerator_cuda().probe();
  if (driver == 0) {
    EXPECT_EQ(probe.num_devices, 0);
    EXPECT_NE(probe.report.find("set device: cpu"), std::string::npos) << probe.report;
  } else {
    EXPECT_FALSE(probe.report.empty());
    EXPECT_EQ(probe.report.find("driver"), std::string::npos) << probe.report;
  }
}

TEST(CudaProbe, TellsApartEverythingThatCanBeMissing) {
  const std::vector<std::pair<DriverFacts, std::string>> cases = {
      {{.runtime = 13000}, "no NVIDIA GPU and no NVIDIA driver"},
      {{.runtime = 13000, .gpu = true}, "GPU is there, but no driver"},
      {{.runtime = 13000, .gpu = true, .module = true, .nodes = true}, "libcuda.so.1 is not found"},
      {{.runtime = 13000, .gpu = true, .library = true}, "no device (/dev/nvidiactl)"},
      {{.runtime = 13000, .library = true, .nodes = true}, "does not answer"},
      {{.driver = 12040, .runtime = 13000, .library = true, .too_old = true},
       "too old: it supports CUDA 12.4, this build needs 13.0"},
      {{.driver = 13000, .runtime = 13000, .library = true}, "sees no GPU"},
      {{.driver = 13000, .runtime = 13000, .library = true, .error = "unknown error"}, "unknown error"}};
  std::set<std::string> lines;
  for (const auto& [facts, words] : cases) {
    std::string line = why_no_gpu(facts);
    EXPECT_EQ(line.find('\n'), std::string::npos);
    EXPECT_NE(line.find("set device: cpu"), std::string::npos) << line;
    EXPECT_NE(line.find(words), std::string::npos) << line;
    lines.insert(line);
  }
  EXPECT_EQ(lines.size(), cases.size()) << "each case has a line of its own";
}

TEST(CudaProbe, SaysThatAGpuIsTooOld) {
  EXPECT_EQ(describe_gpu(0, "Tesla V100", 7, 0, 16, false),
            "GPU 0: Tesla V100, sm_70, 16 GiB, is too old: this build needs sm_80 or newer; set device: cpu");
  EXPECT_NE(describe_gpu(0, "A newer one", 12, 0, 16, false).find("no code in this build"),
            std::string::npos);
  EXPECT_EQ(describe_gpu(1, "NVIDIA H100", 9, 0, 79.6, true), "GPU 1: NVIDIA H100, sm_90, 80 GiB");
}

// sm_80 and sm_90a (CadreCuda.cmake); machine code goes no further than its major version.
TEST(CudaProbe, CodeRunsOnTheTargetsOfTheBuildAndOnLaterMinorVersions) {
  for (const int target : {80, 86, 89, 90}) EXPECT_TRUE(has_code_for(target / 10, target % 10)) << target;
  for (const int target : {70, 75, 100, 120}) EXPECT_FALSE(has_code_for(target / 10, target % 10)) << target;
}

TEST_F(CudaDevice, ProbeLeavesNoErrorForTheNextCallToFind) {
  EXPECT_GT(accelerator_cuda().probe().num_devices, 0);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(CudaProbe, StandsInTheTableOfAccelerators) {
  EXPECT_STREQ(accelerator(DeviceKind::kCuda).name, "cuda");
}

TEST(CudaProbe, AnAbsentDeviceIsAUsageError) {
  const int absent = accelerator_cuda().probe().num_devices;
  try {
    CudaQueue queue(absent);
    FAIL() << "made a queue on device " << absent;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
  }
}

TEST(CudaProbe, ATraceWithoutAGpuSaysWhyThereIsNone) {
  if (accelerator_cuda().probe().num_devices > 0) GTEST_SKIP() << "there is a GPU";
  const TraceStart start = accelerator_cuda().trace_kernels();
  EXPECT_EQ(start.trace == nullptr, !start.why_not.empty());
}

TEST_F(CudaDevice, ATraceHoldsWhatRanWhileItWasOpen) {
  CudaQueue queue(0);
  const Buffer buffer(DeviceKind::kCuda, 1 << 20);
  std::vector<std::byte> host(1 << 20);
  for (int round = 0; round < 2; ++round) {  // a second trace begins where the first ended
    const auto begin = std::chrono::steady_clock::now();
    TraceStart start = accelerator_cuda().trace_kernels();
    if (start.trace == nullptr) GTEST_SKIP() << start.why_not;
    EXPECT_EQ(accelerator_cuda().trace_kernels().trace, nullptr) << "two at once";
    queue.zero(buffer.data(), buffer.bytes());
    queue.download(buffer.data(), host.data(), host.size());
    const std::vector<KernelSpan> spans = start.trace->finish();
    const auto end = std::chrono::steady_clock::now();
    queue.zero(buffer.data(), buffer.bytes());  // after it: in no trace
    queue.wait();
    ASSERT_EQ(spans.size(), 2u);
    EXPECT_EQ(spans[1].name, "copy to the host");
    EXPECT_EQ(spans[1].bytes, host.size());
    const auto ns = [](auto time) {
      return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
    };
    constexpr int64_t kClocksDiffer = 1'000'000;
    EXPECT_GE(spans[0].begin_ns, ns(begin) - kClocksDiffer);
    EXPECT_LE(spans[0].end_ns, spans[1].begin_ns);
    EXPECT_LE(spans[1].end_ns, ns(end) + kClocksDiffer);
  }
}

TEST_F(CudaDevice, BufferIsZeroAlignedDeviceMemory) {
  const Buffer buffer(DeviceKind::kCuda, 1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  cudaPointerAttributes attributes;
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, buffer.data()), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  std::vector<char> host(buffer.bytes(), 'x');
  ASSERT_EQ(cudaMemcpy(host.data(), buffer.data(), host.size(), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(host, std::vector<char>(host.size(), 0));
}

TEST_F(CudaDevice, TooLargeABufferIsAUsageError) {
  EXPECT_THROW(Buffer(DeviceKind::kCuda, size_t(1) << 50), Error);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(CudaDevice, WaitEndsAfterTheWorkOfItsQueue) {
  CudaQueue queue(0);
  const Buffer buffer(DeviceKind::kCuda, size_t(1) << 26);
  ASSERT_EQ(cudaMemsetAsync(buffer.data(), 7, buffer.bytes(), queue.stream()), cudaSuccess);
  queue.wait();
  EXPECT_EQ(cudaStreamQuery(queue.stream()), cudaSuccess);
}

// Two numbers on the GPU, and a recording that its test fills with y += x.
struct Recorded {
  CudaQueue queue{0};
  Buffer memory{DeviceKind::kCuda, 2 * sizeof(float)};
  View<float, 1> x{reinterpret_cast<float*>(memory.data()), {1}}, y{x.data() + 1, {1}};
  std::unique_ptr<Recording> recording = make_recording(queue);

  void set_x(const float& value) { queue.upload(&value, x.data(), sizeof value); }
  void add() { device_kernels<float>(DeviceKind::kCuda).add(queue, x, y); }
  float sum() {
    float sum = 0;
    queue.download(y.data(), &sum, sizeof sum);
    queue.wait();
    return sum;
  }
};

// x changes in its place: the work is called once, recorded, and then launched without being called.
TEST_F(CudaDevice, ARecordingRepeatsItsWorkOnWhatLiesInMemory) {
  Recorded r;
  int calls = 0;
  for (const float value : {1.0f, 2.0f, 4.0f, 8.0f, 16.0f}) {
    r.set_x(value);
    r.recording->run([&] {
      ++calls;
      r.add();
    });
  }
  EXPECT_EQ(r.sum(), 31);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(r.queue.replays(), 4);
}

// Kernels whose blocks come while the one before still runs (vec.cuh): a long one writes last what a short one reads, and
// the other way round. y = 2 (y + 1) at the end of a long array, kernel by kernel and recorded.
TEST_F(CudaDevice, KernelsThatComeEarlyWaitForTheOneBefore) {
  CudaQueue queue(0);
  constexpr int64_t kCount = int64_t(1) << 24, kTail = 300;
  const Buffer memory(DeviceKind::kCuda, 2 * kCount * sizeof(float));
  auto* const at = reinterpret_cast<float*>(memory.data());
  const View<float, 1> x(at, {kCount}), y(at + kCount, {kCount}), tail = y.rows(kCount - kTail, kTail);
  const auto& kernels = device_kernels<float>(DeviceKind::kCuda);
  kernels.fill(queue, x, 1);
  kernels.fill(queue, y, 0);
  const auto recording = make_recording(queue);
  const auto round = [&] {
    kernels.add(queue, x, y);
    kernels.add(queue, tail, tail);
  };
  constexpr int kRounds = 20;  // as a float can tell apart
  for (int i = 0; i < kRounds; ++i) i < kRounds / 2 ? round() : recording->run(round);
  std::vector<float> found(kTail);
  queue.download(tail.data(), found.data(), kTail * sizeof(float));
  queue.wait();
  EXPECT_GT(queue.replays(), 0);
  for (const float value : found) ASSERT_EQ(value, float((1 << (kRounds + 1)) - 2));
}

// Each holds what lay there when it was its turn, whatever the queue was given afterwards.
TEST_F(CudaDevice, ADeliveryIsOfItsPlaceInTheQueue) {
  CudaQueue queue(0);
  constexpr size_t kCount = 1000;
  const Buffer memory(DeviceKind::kCuda, kCount * sizeof(int));
  const auto first = make_delivery(queue), second = make_delivery(queue);
  const int64_t waits = queue.waits();
  for (const size_t count :
       {size_t(1), kCount, size_t(10), size_t(0)}) {  // memory for more is taken when it is needed
    const auto send = [&](int value, Delivery& delivery) {
      const std::vector<int> values(kCount, value);
      queue.upload(values.data(), memory.data(), memory.bytes());
      delivery.start(memory.data(), count * sizeof(int));
    };
    const auto values = [&](Delivery& delivery) {
      const auto* const at = reinterpret_cast<const int*>(delivery.wait());
      return std::vector<int>(at, at + count);
    };
    send(1, *first);
    send(2, *second);
    EXPECT_EQ(values(*first), std::vector<int>(count, 1));
    send(3, *first);
    EXPECT_EQ(values(*second), std::vector<int>(count, 2));
    EXPECT_EQ(values(*first), std::vector<int>(count, 3));
  }
  EXPECT_EQ(queue.waits(), waits);
}

TEST_F(CudaDevice, WorkThatCannotBeRecordedIsQueuedEachTime) {
  Recorded r;
  for (const float value : {1.0f, 2.0f, 4.0f, 8.0f}) {
    r.recording->run([&] {
      r.add();
      r.set_x(value);
    });
  }
  EXPECT_EQ(r.sum(), 7);
  EXPECT_EQ(r.queue.replays(), 0);
}

// The copies read what the queue made before begin(); what it does after hold() cannot be seen in them.
TEST_F(CudaDevice, SnapshotsAreOfTheMomentWhenTheyBegan) {
  CudaQueue queue(0);
  constexpr size_t kBytes = size_t(256)
                            << 20;  // long on its way, so that an update that did not wait would win
  Buffer buffer(DeviceKind::kCuda, kBytes);
  const auto snapshot = accelerator_cuda().make_snapshot();
  for (const int value : {7, 9}) {
    check(cudaMemsetAsync(buffer.data(), value, kBytes, queue.stream()));
    std::byte* host = snapshot->begin(queue, kBytes);
    const size_t half = kBytes / 2 + 1;  // pieces of any size and place
    snapshot->copy(buffer.data(), host, half);
    snapshot->copy(buffer.data() + half, host + half, kBytes - half);
    snapshot->end();
    snapshot->hold(queue);
    queue.zero(buffer.data(), kBytes);
    std::thread([&] { snapshot->wait(); }).join();
    size_t wrong = 0;
    for (size_t i = 0; i < kBytes; ++i) wrong += host[i] != std::byte(value) ? 1 : 0;
    EXPECT_EQ(wrong, 0u) << "value " << value;
  }
  queue.wait();
}

}  // namespace
}  // namespace cadre::device::cuda
