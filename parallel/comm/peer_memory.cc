#include "parallel/comm/peer_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>

#include "parallel/base/log.h"
#include "parallel/comm/mesh.h"
#include "parallel/comm/transports.h"
#include "parallel/comm/watchdog.h"

namespace cadre::comm {
namespace {

constexpr auto kLook = std::chrono::milliseconds(50);
constexpr int64_t kLaneFlags = device::kMostPeers * device::kFlagStride;
constexpr size_t kFlagBytes = device::kPeerLanes * kLaneFlags * sizeof(uint64_t);

}  // namespace

PeerMemory::PeerMemory(Communicator& host, World& world)
    : host_(host), world_(world), imitation_(host.imitation()) {}

// Leaving is collective: while an exception flies, the other ranks will not come.
PeerMemory::~PeerMemory() {
  if (!port_) return;
  try {
    if (std::uncaught_exceptions() == 0) {
      leave();
      return;
    }
  } catch (const std::exception& error) {
    spdlog::warn("leaving peer memory: {}", error.what());
  }
  watchdog_.reset();
  port_->abandon();
}

void PeerMemory::leave() {
  if (port_) port_->close();
  watchdog_.reset();
  host_.barrier("close peer memory");
  port_.reset();
  regions_.clear();
  bytes_ = 0;
}

// Fails on all ranks or on none.
void PeerMemory::connect(device::Queue& queue, size_t bytes) {
  std::string error, handle;
  const auto attempt = [&](const auto& body) {
    try {
      body();
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    host_.agree(error, ExitCode::kUsage, "peer memory");
  };
  attempt([&] {
    port_ = device::make_peer_port(queue.kind(), kFlagBytes + bytes);
    if (const ImitatedWire* wire = imitated_wire(host_))
      port_ = time_reads(std::move(port_), queue.kind(), kFlagBytes + bytes, *wire);
    handle = port_->handle_of(port_->data());
  });
  const std::vector<std::string> handles = host_.gather_texts(handle, "peer memory");
  regions_.assign(size_t(size()), port_->data());
  attempt([&] {
    for (int r = 0; r < size(); ++r)
      if (r != rank() && !imitation_) regions_[size_t(r)] = port_->open(handles[size_t(r)]);
  });
}

void PeerMemory::reserve(device::Queue& queue, size_t bytes) {
  if (bytes <= bytes_) return;
  require(size() <= device::kMostPeers, ExitCode::kUsage, "{} ranks read each other's memory, at most {} can",
          size(), device::kMostPeers);
  queue.wait();
  if (port_) leave();
  try {
    connect(queue, bytes);
  } catch (...) {
    if (port_) port_->abandon();  // others may have opened it
    port_.reset();
    throw;
  }
  std::fill(std::begin(round_), std::end(round_), 0);
  boundary_ = 0;
  bytes_ = bytes;
  watchdog_ = make_watchdog(queue.kind());
}

bool PeerMemory::reachable(device::Queue& queue) {
  if (reachable_) return *reachable_;
  try {
    reserve(queue, 1);
    reachable_ = true;
  } catch (const Error& error) {
    if (error.code() != ExitCode::kUsage) throw;
    spdlog::info("peer memory: {}", error.what());
    reachable_ = false;
  }
  return *reachable_;
}

std::unique_ptr<Watchdog> PeerMemory::make_watchdog(device::DeviceKind kind) {
  if (kind == device::DeviceKind::kCpu) return nullptr;  // an await there ends by itself
  const std::string who = fmt::format("peer memory '{}', rank {} of {}", host_.name(), rank(), size());
  return std::make_unique<Watchdog>(
      Watchdog::Hooks{.who = who,
                      .start = {},
                      .fault = [port = port_.get(), timeout = host_.timeout()]() -> std::string {
                        const int missing = port->missing();
                        if (missing < 0) return "";
                        return fmt::format("rank {} did not come within {} ms", missing, timeout.count());
                      },
                      .failed =
                          [&world = world_](const std::string& message, const std::string& flights) {
                            fmt::print(stderr, "cadre: {}\nlast rounds:\n{}", message, flights);
                            spdlog::error("{}", message);
                            world.abort(int(ExitCode::kComm));
                          }},
      kLook);
}

uint64_t* PeerMemory::flags_of(int rank, int lane) const {
  return reinterpret_cast<uint64_t*>(regions_[size_t(rank)]) + lane * kLaneFlags;
}

std::byte* PeerMemory::at(int rank) const {
  return regions_[size_t(imitation_ ? this->rank() : rank)] + kFlagBytes;
}

void PeerMemory::enter(device::Queue& queue, size_t boundary) {
  if (boundary_ != 0 && boundary_ != boundary) {
    signal(queue, "peer.enter", 0);
    await(queue);
  }
  boundary_ = boundary;
}

void PeerMemory::signal(device::Queue& queue, std::string_view label, uint64_t bytes, int lane) {
  if (imitation_) return;
  const int missing = port_->missing();
  require(missing < 0, ExitCode::kComm, "'{}' on peer memory '{}': rank {} did not come", label, host_.name(),
          missing);
  const uint64_t round = ++round_[lane];
  std::vector<uint64_t*> flags;
  for (int r = 0; r < size(); ++r) flags.push_back(flags_of(r, lane) + rank() * device::kFlagStride);
  port_->signal(queue, flags, round);
  if (!watchdog_) return;
  watchdog_->started("peer round", label, bytes, host_.timeout(),
                     [port = port_.get(), lane, round] { return port->reached(lane) >= round; });
}

void PeerMemory::await(device::Queue& queue, int lane) {
  if (imitation_) return;
  port_->await(queue, lane, flags_of(rank(), lane), size(), round_[lane], host_.timeout());
}

}  // namespace cadre::comm
