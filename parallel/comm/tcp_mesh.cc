#include "parallel/comm/tcp_mesh.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <thread>

#include "parallel/base/errors.h"
#include "parallel/base/files.h"
#include "parallel/comm/tcp_socket.h"

namespace cadre::comm {
namespace {

constexpr std::string_view kFile = "file:";
constexpr std::string_view kGreeting = "cadre 1";

struct Frame {
  uint64_t communicator, call, bytes;
};

std::string host_name() {
  char name[256] = "?";
  (void)::gethostname(name, sizeof name - 1);
  return name;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

// The first line of the file, as soon as it is there.
std::string address_in(const std::filesystem::path& file, Deadline deadline) {
  constexpr auto kPause = std::chrono::milliseconds(20);
  while (!std::filesystem::exists(file)) {
    require(std::chrono::steady_clock::now() < deadline, ExitCode::kComm,
            "{}: rank 0 did not leave its address there in time", file.string());
    std::this_thread::sleep_for(kPause);
  }
  const auto lines = lines_of(base::read_file(file, ExitCode::kComm));
  require(!lines.empty(), ExitCode::kComm, "{} is empty, expected rank 0's address", file.string());
  return lines.front();
}

void set_up(int socket) {
  const int yes = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
}

}  // namespace

TcpMesh::TcpMesh(int rank, int ranks, const std::string& meeting, std::chrono::milliseconds timeout)
    : rank_(rank), hosts_(size_t(ranks)), peers_(size_t(ranks)) {
  require(ranks > 0 && rank >= 0 && rank < ranks, ExitCode::kUsage, "found rank {} of {}", rank, ranks);
  hosts_[size_t(rank)] = host_name();
  try {
    if (ranks > 1) meet(meeting, timeout);
  } catch (...) {
    close_all();
    throw;
  }
}

// Everybody tells rank 0 where it listens; rank 0 tells everybody. Then each connects to the ranks below it.
void TcpMesh::meet(const std::string& meeting, std::chrono::milliseconds timeout) {
  const Deadline deadline = std::chrono::steady_clock::now() + timeout;
  const bool by_file = meeting.starts_with(kFile);
  const std::filesystem::path file = by_file ? meeting.substr(kFile.size()) : "";
  const std::string what = fmt::format("rank {} of {}, meeting at {}", rank_, ranks(), meeting);
  const bool first = rank_ == 0;
  const Socket listener = listen_on(first && !by_file ? parse_address(meeting).port : "0");
  std::vector<std::string> addresses(hosts_.size());
  std::vector<Socket> sockets(hosts_.size());
  if (first) {
    if (by_file)
      base::write_file_atomic(file, fmt::format("{}:{}\n", host_name(), port_of(listener)), ExitCode::kComm);
    for (int n = 1; n < ranks(); ++n) {
      Socket socket = accept_one(listener, deadline, what);
      const auto lines = lines_of(receive_record(socket, deadline, what));
      require(lines.size() == 5 && lines[0] == kGreeting, ExitCode::kComm, "{}: something else connected",
              what);
      const int rank = std::atoi(lines[1].c_str());
      require(lines[2] == std::to_string(ranks()) && rank > 0 && rank < ranks() && !sockets[size_t(rank)],
              ExitCode::kComm, "{}: found rank {} of {}, expected each of 1 to {} once", what, rank, lines[2],
              ranks() - 1);
      hosts_[size_t(rank)] = lines[3];
      addresses[size_t(rank)] = fmt::format("{}:{}", peer_host(socket), lines[4]);
      sockets[size_t(rank)] = std::move(socket);
    }
    const std::string table = fmt::format("{}\n{}\n", fmt::join(hosts_, "\n"), fmt::join(addresses, "\n"));
    for (int r = 1; r < ranks(); ++r) send_record(sockets[size_t(r)], table, deadline, what);
    if (by_file) std::filesystem::remove(file);  // all have come
  } else {
    const Address address = parse_address(by_file ? address_in(file, deadline) : meeting);
    Socket socket = connect_to(address, deadline, what);
    send_record(
        socket,
        fmt::format("{}\n{}\n{}\n{}\n{}\n", kGreeting, rank_, ranks(), host_name(), port_of(listener)),
        deadline, what);
    const auto lines = lines_of(receive_record(socket, deadline, what));
    require(lines.size() == 2 * hosts_.size(), ExitCode::kComm, "{}: found {} lines, expected {}", what,
            lines.size(), 2 * hosts_.size());
    for (size_t r = 0; r < hosts_.size(); ++r) {
      hosts_[r] = lines[r];
      addresses[r] = lines[hosts_.size() + r];
    }
    sockets[0] = std::move(socket);
  }
  for (int r = 1; r < rank_; ++r) {
    sockets[size_t(r)] = connect_to(parse_address(addresses[size_t(r)]), deadline, what);
    send_record(sockets[size_t(r)], std::to_string(rank_), deadline, what);
  }
  for (int n = rank_ + 1; !first && n < ranks(); ++n) {
    Socket socket = accept_one(listener, deadline, what);
    const int rank = std::atoi(receive_record(socket, deadline, what).c_str());
    require(rank > rank_ && rank < ranks() && !sockets[size_t(rank)], ExitCode::kComm,
            "{}: rank {} came twice", what, rank);
    sockets[size_t(rank)] = std::move(socket);
  }
  for (int r = 0; r < ranks(); ++r) {
    if (r == rank_) continue;
    peers_[size_t(r)].socket = sockets[size_t(r)].release();
    set_up(peers_[size_t(r)].socket);
  }
}

TcpMesh::~TcpMesh() {
  constexpr auto kPatience = std::chrono::seconds(10);
  const Deadline deadline = std::chrono::steady_clock::now() + kPatience;
  const auto unsent = [&] {
    for (const Peer& peer : peers_)
      if (!peer.out.empty() && !peer.gone) return true;
    return false;
  };
  try {
    while (std::uncaught_exceptions() == 0 && unsent() && std::chrono::steady_clock::now() < deadline)
      progress(std::chrono::milliseconds(10));
  } catch (const std::exception&) {
    // A rank is gone: it waits for nothing any more.
  }
  close_all();
}

void TcpMesh::close_all() {
  for (Peer& peer : peers_) {
    if (peer.socket >= 0) ::close(peer.socket);
    peer.socket = -1;
  }
}

void TcpMesh::send(int peer, uint64_t communicator, uint64_t call, const std::byte* data, size_t bytes) {
  const Frame frame = {communicator, call, bytes};
  std::vector<std::byte> message(sizeof frame + bytes);
  std::memcpy(message.data(), &frame, sizeof frame);
  if (bytes > 0) std::memcpy(message.data() + sizeof frame, data, bytes);
  peers_[size_t(peer)].out.push_back(std::move(message));
  write_some(peers_[size_t(peer)]);
}

void TcpMesh::write_some(Peer& peer) {
  while (!peer.out.empty() && !peer.gone) {
    const std::vector<std::byte>& message = peer.out.front();
    const ssize_t n =
        ::send(peer.socket, message.data() + peer.out_at, message.size() - peer.out_at, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) peer.gone = true;
      return;
    }
    peer.out_at += size_t(n);
    if (peer.out_at < message.size()) return;
    peer.out.pop_front();
    peer.out_at = 0;
  }
}

void TcpMesh::read_some(int rank) {
  Peer& peer = peers_[size_t(rank)];
  constexpr size_t kPiece = size_t(1) << 18;
  const size_t had = peer.in.size();
  peer.in.resize(had + kPiece);
  const ssize_t n = ::recv(peer.socket, peer.in.data() + had, kPiece, 0);
  peer.in.resize(had + size_t(std::max<ssize_t>(n, 0)));
  if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)) peer.gone = true;
  size_t at = 0;
  while (peer.in.size() - at >= sizeof(Frame)) {
    Frame frame;
    std::memcpy(&frame, peer.in.data() + at, sizeof frame);
    if (peer.in.size() - at - sizeof frame < frame.bytes) break;
    const auto begin = peer.in.begin() + std::ptrdiff_t(at + sizeof frame);
    arrived_[{frame.communicator, frame.call, rank}].assign(begin, begin + std::ptrdiff_t(frame.bytes));
    at += sizeof frame + frame.bytes;
  }
  peer.in.erase(peer.in.begin(), peer.in.begin() + std::ptrdiff_t(at));
}

void TcpMesh::progress(std::chrono::milliseconds patience) {
  std::vector<pollfd> entries;
  std::vector<int> ranks;
  for (int r = 0; r < this->ranks(); ++r) {
    const Peer& peer = peers_[size_t(r)];
    if (peer.socket < 0 || peer.gone) continue;
    entries.push_back({peer.socket, short(POLLIN | (peer.out.empty() ? 0 : POLLOUT)), 0});
    ranks.push_back(r);
  }
  if (entries.empty()) return;
  if (::poll(entries.data(), entries.size(), int(patience.count())) <= 0) return;
  for (size_t i = 0; i < entries.size(); ++i) {
    if ((entries[i].revents & POLLOUT) != 0) write_some(peers_[size_t(ranks[i])]);
    if ((entries[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read_some(ranks[i]);
  }
}

bool TcpMesh::take(const MessageKey& key, std::vector<std::byte>& message) {
  const auto found = arrived_.find(key);
  if (found == arrived_.end()) {
    require(!peers_[size_t(key.sender)].gone, ExitCode::kComm,
            "rank {} on {} closed its connection: it was lost", key.sender, hosts_[size_t(key.sender)]);
    return false;
  }
  message = std::move(found->second);
  arrived_.erase(found);
  return true;
}

}  // namespace cadre::comm
