#include "parallel/comm/nccl/nccl_communicator.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>

#include "parallel/base/log.h"
#include "parallel/comm/nccl/echo.h"
#include "parallel/comm/nccl/elements.h"
#include "parallel/comm/transports.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::comm::nccl {
namespace {

namespace gpu = device::cuda;

constexpr auto kLook = std::chrono::milliseconds(50);

// Parts of one length, one after the other: what NCCL's own all-gather takes.
bool even(std::span<const int64_t> counts, std::span<const int64_t> displs) {
  for (size_t r = 1; r < counts.size(); ++r) {
    if (counts[r] != counts[0] || displs[r] != displs[0] + int64_t(r) * counts[0]) return false;
  }
  return true;
}

}  // namespace

class NcclCommunicator::Waiting : public Request::State {
 public:
  Waiting(NcclCommunicator& communicator, std::shared_ptr<Call> call)
      : communicator_(communicator), call_(std::move(call)) {}

  bool test() override { return finished(call_->done.get()); }
  void then(device::Queue& queue) override {
    gpu::check(cudaStreamWaitEvent(static_cast<gpu::CudaQueue&>(queue).stream(), call_->done.get(), 0));
  }
  // The watchdog knows of time-outs; it also ends the world, so that this throws only where that is a test's.
  void wait() override {
    const auto start = std::chrono::steady_clock::now();
    for (int turn = 0; !finished(call_->done.get()); ++turn) {
      constexpr int kYields = 1000;
      if (turn < kYields) {
        sched_yield();
        continue;
      }
      const timespec nap = {0, 50'000};
      nanosleep(&nap, nullptr);
      const std::string failure = communicator_.watchdog_->failure();
      require(failure.empty(), ExitCode::kComm, "{}", failure);
    }
    base::collective_done(call_->in_box, std::chrono::steady_clock::now() - start);
  }

 private:
  NcclCommunicator& communicator_;  // outlives its requests
  std::shared_ptr<Call> call_;
};

NcclCommunicator::NcclCommunicator(Communicator& host, device::Queue& queue, std::function<void(int)> abort)
    : Communicator(host.name()),
      host_(host),
      queue_(static_cast<gpu::CudaQueue&>(queue)),
      rank_(host.rank()),
      size_(host.size()) {
  set_timeout(host.timeout());
  gpu::check(cudaGetDevice(&device_));
  // Above the queue's priority: its kernels would else keep others waiting until they leave room.
  int lowest = 0, highest = 0;
  gpu::check(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  for (cudaStream_t* stream : {&stream_, &sum_stream_})
    gpu::check(cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, highest));
  ready_ = make_event();
  for (auto* events : {&arrived_, &summed_}) {
    for (cudaEvent_t& event : *events) event = make_event();
  }
  const auto connected = std::make_shared<std::atomic<bool>>(false);
  const std::string who =
      fmt::format("communicator '{}', rank {} of {} on GPU {}", name(), rank_, size_, device_);
  watchdog_ = std::make_unique<Watchdog>(
      Watchdog::Hooks{.who = who,
                      .start = [device = device_] { gpu::check(cudaSetDevice(device)); },
                      .fault = [this, connected]() -> std::string {
                        ncclResult_t state = ncclSuccess;
                        if (!*connected) return "";
                        const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
                        const ncclResult_t result = asked != ncclSuccess ? asked : state;
                        if (result == ncclSuccess || result == ncclInProgress) return "";
                        return fmt::format("NCCL failed: {} ({})", ncclGetErrorString(result),
                                           ncclGetLastError(comm_));
                      },
                      .failed =
                          [abort](const std::string& message, const std::string& flights) {
                            fmt::print(stderr, "cadre: {}\nlast collectives:\n{}", message, flights);
                            spdlog::error("{}", message);
                            abort(int(ExitCode::kComm));
                          }},
      kLook);
  if (host.imitation()) {
    set_imitation(true);
    if (const ImitatedWire* wire = imitated_wire(host)) lane_ = std::make_unique<WireLane>(*wire);
    return;
  }
  ncclUniqueId id = {};
  if (rank_ == 0) check(ncclGetUniqueId(&id), "NCCL id");
  host.broadcast(&id, int64_t(sizeof id), 0, Dtype::kByte, "NCCL id").wait();
  watchdog_->started("connect", "NCCL", 0, timeout(), [connected] { return connected->load(); });
  const ncclResult_t result = ncclCommInitRank(&comm_, size_, id, rank_);
  require(
      result == ncclSuccess, ExitCode::kComm,
      "{}: NCCL could not connect: {} ({}); each rank needs a GPU of its own, and NCCL_DEBUG=INFO says more",
      who, ncclGetErrorString(result), ncclGetLastError(nullptr));
  *connected = true;
}

// Leaving is collective: while an exception flies, the other ranks will not come.
NcclCommunicator::~NcclCommunicator() {
  const bool flying = std::uncaught_exceptions() > 0;
  if (!flying) {
    cudaStreamSynchronize(sum_stream_);
    cudaStreamSynchronize(stream_);
  }
  windows_.reset();
  lane_.reset();
  watchdog_.reset();
  if (comm_ != nullptr) (flying ? ncclCommAbort : ncclCommDestroy)(comm_);
  for (cudaStream_t stream : {stream_, sum_stream_}) cudaStreamDestroy(stream);
  for (const cudaEvent_t event : {ready_, arrived_[0], arrived_[1], summed_[0], summed_[1]})
    cudaEventDestroy(event);
}

void NcclCommunicator::check(ncclResult_t result, std::string_view label) const {
  require(result == ncclSuccess || result == ncclInProgress, ExitCode::kComm,
          "'{}' on communicator '{}', rank {} of {}: NCCL failed: {} ({})", label, name(), rank_, size_,
          ncclGetErrorString(result), ncclGetLastError(comm_));
}

void NcclCommunicator::copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0 && to != from)
    gpu::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
}

std::shared_ptr<NcclCommunicator::Call> NcclCommunicator::begin(const char* verb, std::string_view label,
                                                                uint64_t bytes) {
  if (!open_) order(queue_.stream(), ready_, stream_);
  auto call = std::make_shared<Call>();
  call->done = events_->take(events_);
  call->label = label;
  call->in_box = watchdog_->started(verb, label, bytes, timeout(),
                                    [call] { return call->given && finished(call->done.get()); });
  return call;
}

Request NcclCommunicator::end(std::shared_ptr<Call> call) {
  if (open_) {
    together_.push_back(call);
  } else {
    close(*call);
  }
  return Request(std::make_unique<Waiting>(*this, std::move(call)));
}

void NcclCommunicator::close(Call& call) {
  gpu::check(cudaEventRecord(call.done.get(), stream_));
  call.given = true;
}

void NcclCommunicator::begin_together() {
  order(queue_.stream(), ready_, stream_);
  check(ncclGroupStart(), "begin together");
  open_ = true;
}

void NcclCommunicator::end_together() {
  open_ = false;
  check(ncclGroupEnd(), together_.empty() ? "end together" : together_.front()->label);
  for (const auto& call : together_) close(*call);
  together_.clear();
}

void NcclCommunicator::share(std::byte* data, size_t bytes) {
  if (no_windows_ || imitation() || bytes == 0) return;
  if (!windows_) {
    windows_ = PeerWindows::connect(host_);
    no_windows_ = !windows_;
    if (no_windows_) return;
    if (rank_ == 0)
      spdlog::info("communicator '{}': copy engines move gradients and values between {} GPUs", name(),
                   size_);
  }
  windows_->add(data, bytes);
}

void NcclCommunicator::end_sharing() {
  gpu::check(cudaStreamSynchronize(stream_));
  windows_.reset();
}

bool NcclCommunicator::copies(const void* data) const {
  return windows_ && !open_ && !imitation() && windows_->at(data, rank_) != nullptr;
}

// What stands at `from` on a peer; between two meetings.
void NcclCommunicator::fetch(void* to, const void* from, int peer, size_t bytes) {
  if (bytes > 0) gpu::check(cudaMemcpyAsync(to, windows_->at(from, peer), bytes, cudaMemcpyDefault, stream_));
}

Request NcclCommunicator::all_to_all(const void* send, std::span<const int64_t> send_counts,
                                     std::span<const int64_t> send_displs, void* receive,
                                     std::span<const int64_t> receive_counts,
                                     std::span<const int64_t> receive_displs, Dtype dtype,
                                     std::string_view label) {
  const ncclDataType_t type = nccl_type(dtype);
  int64_t sent = 0;
  for (const int64_t count : send_counts) sent += count;
  auto call = begin("all_to_all", label, uint64_t(sent) * size_of(dtype));
  if (imitation()) begin_transfer(size_t(sent - send_counts[rank_]) * size_of(dtype));
  if (!imitation()) check(ncclGroupStart(), label);
  for (int peer = 0; peer < size_; ++peer) {
    const std::byte* from = at(send, send_displs[peer], dtype);
    std::byte* to = at(receive, receive_displs[peer], dtype);
    if (peer == rank_ || imitation()) {
      copy(to, from, size_t(std::min(send_counts[peer], receive_counts[peer])) * size_of(dtype));
      continue;
    }
    if (send_counts[peer] > 0)
      check(ncclSend(from, size_t(send_counts[peer]), type, peer, comm_, stream_), label);
    if (receive_counts[peer] > 0)
      check(ncclRecv(to, size_t(receive_counts[peer]), type, peer, comm_, stream_), label);
  }
  imitation() ? end_transfer() : check(ncclGroupEnd(), label);
  return end(std::move(call));
}

Request NcclCommunicator::all_gather(const void* send, int64_t send_count, void* receive,
                                     std::span<const int64_t> receive_counts,
                                     std::span<const int64_t> receive_displs, Dtype dtype,
                                     std::string_view label) {
  const ncclDataType_t type = nccl_type(dtype);
  auto call = begin("all_gather", label, uint64_t(send_count) * size_of(dtype));
  if (imitation()) {
    int64_t received = 0;
    for (const int64_t count : receive_counts) received += count;
    begin_transfer(size_t(received - receive_counts[rank_]) * size_of(dtype));
    echo_all_gather(send, send_count, receive, receive_counts, receive_displs, dtype);
    end_transfer();
    return end(std::move(call));
  }
  // Asked of the place where all begins: a rank's own part may be empty, and all have to decide alike.
  if (copies(at(receive, receive_displs[0], dtype))) {
    copy(at(receive, receive_displs[rank_], dtype), send, size_t(send_count) * size_of(dtype));
    windows_->meet(stream_);
    // Each begins with the one after it, so that no rank is asked by all at a time.
    for (int step = 1; step < size_; ++step) {
      const int peer = (rank_ + step) % size_;
      std::byte* place = at(receive, receive_displs[peer], dtype);
      fetch(place, place, peer, size_t(receive_counts[peer]) * size_of(dtype));
    }
    windows_->meet(stream_);
    return end(std::move(call));
  }
  if (even(receive_counts, receive_displs)) {
    check(
        ncclAllGather(send, at(receive, receive_displs[0], dtype), size_t(send_count), type, comm_, stream_),
        label);
    return end(std::move(call));
  }
  check(ncclGroupStart(), label);
  for (int peer = 0; peer < size_; ++peer) {
    std::byte* to = at(receive, receive_displs[peer], dtype);
    if (peer == rank_) {
      copy(to, send, size_t(send_count) * size_of(dtype));
      continue;
    }
    if (send_count > 0) check(ncclSend(send, size_t(send_count), type, peer, comm_, stream_), label);
    if (receive_counts[peer] > 0)
      check(ncclRecv(to, size_t(receive_counts[peer]), type, peer, comm_, stream_), label);
  }
  check(ncclGroupEnd(), label);
  return end(std::move(call));
}

void NcclCommunicator::reserve_staging() {
  if (staging_.bytes() == 0) staging_ = device::Buffer(device::DeviceKind::kCuda, 2 * kHalf);
}

void NcclCommunicator::begin_transfer(size_t bytes) {
  if (lane_) lane_->begin(stream_, bytes);
}
void NcclCommunicator::end_transfer() {
  if (lane_) lane_->end(stream_);
}

void NcclCommunicator::echo_all_gather(const void* send, int64_t send_count, void* receive,
                                       std::span<const int64_t> receive_counts,
                                       std::span<const int64_t> receive_displs, Dtype dtype) {
  const size_t width = size_of(dtype);
  if (send != at(receive, receive_displs[rank_], dtype)) {
    const int64_t count = receive_counts[0];
    if (even(receive_counts, receive_displs) && send_count == count)
      return echo(stream_, send, size_t(count) * width, at(receive, receive_displs[0], dtype),
                  size_t(count) * width, size_);
    for (int peer = 0; peer < size_; ++peer)
      copy(at(receive, receive_displs[peer], dtype), send,
           size_t(std::min(send_count, receive_counts[peer])) * width);
    return;
  }
  // In place: what stands in the others' places goes nowhere.
  reserve_staging();
  for (const bool after : {false, true}) {
    const size_t first = after ? size_t(rank_) + 1 : 0, last = after ? size_t(size_) : size_t(rank_);
    if (first == last) continue;
    const std::byte* from = at(receive, receive_displs[first], dtype);
    const std::byte* to = at(receive, receive_displs[last - 1] + receive_counts[last - 1], dtype);
    for (; from < to; from += 2 * kHalf) copy(staging_.data(), from, std::min(size_t(to - from), 2 * kHalf));
  }
}

Request NcclCommunicator::broadcast(void* data, int64_t count, int root, Dtype dtype,
                                    std::string_view label) {
  auto call = begin("broadcast", label, uint64_t(count) * size_of(dtype));
  if (!imitation())
    check(ncclBroadcast(data, data, size_t(count), nccl_type(dtype), root, comm_, stream_), label);
  return end(std::move(call));
}

void NcclCommunicator::run_native(const std::function<ncclResult_t()>& start, device::Queue& queue) {
  auto call = begin("native", "benchmark", 0);
  check(start(), "benchmark");
  end(std::move(call)).then(queue);
}

}  // namespace cadre::comm::nccl
