#include "parallel/comm/nccl/peer_windows.h"

#include <time.h>

#include <chrono>
#include <exception>
#include <limits>

#include "parallel/base/log.h"
#include "parallel/device/cuda/check.h"
#include "parallel/device/cuda/stream_values.h"

namespace cadre::comm::nccl {
namespace {

namespace gpu = device::cuda;

constexpr size_t kFlagWords = device::kMostPeers * device::kFlagStride;
constexpr size_t kRegionBytes = (kFlagWords + 1 + device::kMostPeers) * sizeof(uint64_t);
constexpr auto kPatience = std::chrono::seconds(10);

// Whether the stream came to its end in time.
bool ends_within(cudaStream_t stream, std::chrono::seconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (cudaStreamQuery(stream) == cudaErrorNotReady) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    const timespec nap = {0, 100'000};
    nanosleep(&nap, nullptr);
  }
  return cudaStreamQuery(stream) == cudaSuccess;
}

class Stream {
 public:
  Stream() { gpu::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// The message of what `body` throws, of the first rank where it throws; empty where it does nowhere.
template <class Body>
std::string first_obstacle(Communicator& host, const Body& body) {
  std::string obstacle;
  try {
    body();
  } catch (const std::exception& error) {
    obstacle = error.what();
  }
  for (std::string& text : host.gather_texts(obstacle, "peer windows"))
    if (!text.empty()) return std::move(text);
  return "";
}

}  // namespace

std::unique_ptr<PeerWindows> PeerWindows::connect(Communicator& host) {
  if (host.size() > device::kMostPeers) return nullptr;
  std::unique_ptr<PeerWindows> made(new PeerWindows(host));
  std::string obstacle = first_obstacle(
      host, [&] { made->port_ = device::make_peer_port(device::DeviceKind::kCuda, kRegionBytes); });
  if (obstacle.empty()) obstacle = made->open_all(made->port_->data(), made->regions_);
  if (obstacle.empty()) obstacle = first_obstacle(host, [&] { made->try_out(); });
  if (obstacle.empty()) return made;
  made->leave();
  spdlog::info("communicator '{}': NCCL moves everything ({})", host.name(), obstacle);
  return nullptr;
}

PeerWindows::~PeerWindows() {
  if (!port_) return;
  try {
    if (std::uncaught_exceptions() == 0) {
      leave();
      return;
    }
    let_go();
  } catch (const std::exception& error) {
    spdlog::warn("leaving peer windows: {}", error.what());
  }
  port_->abandon();  // others may still read
}

// All close before any memory goes.
void PeerWindows::leave() {
  if (port_) {
    let_go();
    port_->close();
  }
  host_.barrier("close peer windows");
  port_.reset();
}

std::string PeerWindows::open_all(std::byte* own, std::vector<std::byte*>& all) {
  std::string handle;
  const std::string obstacle = first_obstacle(host_, [&] { handle = port_->handle_of(own); });
  if (!obstacle.empty()) return obstacle;
  const std::vector<std::string> handles = host_.gather_texts(handle, "peer windows");
  return first_obstacle(host_, [&] {
    for (int r = 0; r < host_.size(); ++r)
      all.push_back(r == host_.rank() ? own : port_->open(handles[size_t(r)]));
  });
}

// A number travels from every rank to every other.
void PeerWindows::try_out() {
  const int ranks = host_.size();
  const auto numbers = [this](int rank) {
    return reinterpret_cast<uint64_t*>(regions_[size_t(rank)]) + kFlagWords;
  };
  const auto number_of = [](int rank) { return uint64_t(rank) + 1; };
  const uint64_t own = number_of(host_.rank());
  gpu::check(cudaMemcpy(numbers(host_.rank()), &own, sizeof own, cudaMemcpyHostToDevice));
  const Stream stream;
  uint64_t* came = numbers(host_.rank()) + 1;
  meet(stream.get());
  for (int r = 0; r < ranks; ++r)
    gpu::check(cudaMemcpyAsync(came + r, numbers(r), sizeof own, cudaMemcpyDefault, stream.get()));
  meet(stream.get());
  const bool in_time = ends_within(stream.get(), kPatience);
  if (!in_time) let_go();
  std::vector<uint64_t> got(static_cast<size_t>(ranks));
  gpu::check(cudaMemcpy(got.data(), came, got.size() * sizeof own, cudaMemcpyDeviceToHost));
  require(in_time, ExitCode::kComm, "signals between the GPUs do not come through");
  for (int r = 0; r < ranks; ++r)
    require(got[size_t(r)] == number_of(r), ExitCode::kComm, "copies between the GPUs do not come through");
}

uint64_t* PeerWindows::flag(int of, int from) const {
  return reinterpret_cast<uint64_t*>(regions_[size_t(of)]) + from * device::kFlagStride;
}

void PeerWindows::let_go() {
  const std::vector<uint64_t> all(kFlagWords, uint64_t(std::numeric_limits<int64_t>::max()));
  const Stream stream;
  gpu::check(cudaMemcpyAsync(port_->data(), all.data(), all.size() * sizeof all[0], cudaMemcpyHostToDevice,
                             stream.get()));
  gpu::check(cudaStreamSynchronize(stream.get()));
}

void PeerWindows::add(std::byte* data, size_t bytes) {
  std::vector<std::byte*> all;
  const std::string obstacle = open_all(data, all);
  require(obstacle.empty(), ExitCode::kComm, "communicator '{}': {}", host_.name(), obstacle);
  windows_.push_back({data, bytes, {all.begin(), all.end()}});
}

const std::byte* PeerWindows::at(const void* data, int peer) const {
  const auto* place = static_cast<const std::byte*>(data);
  for (const Window& window : windows_) {
    if (place >= window.data && place < window.data + window.bytes)
      return window.of[size_t(peer)] + (place - window.data);
  }
  return nullptr;
}

void PeerWindows::meet(cudaStream_t stream) {
  const int own = host_.rank();
  ++round_;
  for (int r = 0; r < host_.size(); ++r)
    if (r != own) gpu::write_value(stream, flag(r, own), round_);
  for (int r = 0; r < host_.size(); ++r)
    if (r != own) gpu::wait_value(stream, flag(own, r), round_);
}

}  // namespace cadre::comm::nccl
