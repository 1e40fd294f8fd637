#include "parallel/comm/nccl/timed_port.h"

#include <utility>

#include "parallel/comm/nccl/wire_lane.h"
#include "parallel/device/cuda/queue_cuda.h"

namespace cadre::comm::nccl {
namespace {

class TimedPort final : public device::PeerPort {
 public:
  TimedPort(std::unique_ptr<device::PeerPort> port, size_t bytes, const ImitatedWire& wire)
      : port_(std::move(port)), bytes_(bytes), lane_(wire) {}

  std::byte* data() const override { return port_->data(); }
  std::string handle_of(const std::byte* allocation) const override { return port_->handle_of(allocation); }
  std::byte* open(const std::string& handle) override { return port_->open(handle); }
  void close() override { port_->close(); }
  void abandon() override { port_->abandon(); }
  void signal(device::Queue& queue, std::span<uint64_t* const> flags, uint64_t number) override {
    port_->signal(queue, flags, number);
  }
  void await(device::Queue& queue, int lane, const uint64_t* flags, int count, uint64_t number,
             std::chrono::milliseconds timeout) override {
    port_->await(queue, lane, flags, count, number, timeout);
  }
  uint64_t reached(int lane) const override { return port_->reached(lane); }
  int missing() const override { return port_->missing(); }
  device::Queue& fork(device::Queue& queue) override { return port_->fork(queue); }
  void join(device::Queue& queue) override { port_->join(queue); }

  // Regions are read by other ranks alone; here this rank's is in their place.
  void copy(device::Queue& queue, void* to, const void* from, size_t bytes) override {
    const auto* place = static_cast<const std::byte*>(from);
    const cudaStream_t stream = static_cast<device::cuda::CudaQueue&>(queue).stream();
    lane_.begin(stream, place >= data() && place < data() + bytes_ ? bytes : 0);
    port_->copy(queue, to, from, bytes);
    lane_.end(stream);
  }

 private:
  std::unique_ptr<device::PeerPort> port_;
  size_t bytes_;
  WireLane lane_;
};

}  // namespace

std::unique_ptr<device::PeerPort> make_timed_port(std::unique_ptr<device::PeerPort> port, size_t bytes,
                                                  const ImitatedWire& wire) {
  return std::make_unique<TimedPort>(std::move(port), bytes, wire);
}

}  // namespace cadre::comm::nccl
