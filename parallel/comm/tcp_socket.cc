#include "parallel/comm/tcp_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "parallel/base/errors.h"

namespace cadre::comm {
namespace {

int left_ms(Deadline deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return int(std::max<int64_t>(0, left.count()));
}

// Waits until the socket can be read or written.
void await(const Socket& socket, short events, Deadline deadline, const std::string& what) {
  pollfd entry = {socket.handle(), events, 0};
  int ready;
  do {
    ready = ::poll(&entry, 1, left_ms(deadline));
  } while (ready < 0 && errno == EINTR);
  require(ready > 0, ExitCode::kComm,
          "{}: nobody answered in time; are all ranks started, and the ports open?", what);
}

struct Found {
  explicit Found(const char* host, const std::string& port, int flags) {
    addrinfo hints = {};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    const int code = ::getaddrinfo(host, port.c_str(), &hints, &list);
    require(code == 0, ExitCode::kUsage, "cannot find the address {}:{}: {}", host ? host : "*", port,
            ::gai_strerror(code));
  }
  ~Found() { ::freeaddrinfo(list); }
  addrinfo* list = nullptr;
};

void transfer(const Socket& socket, char* data, size_t bytes, bool out, Deadline deadline,
              const std::string& what) {
  for (size_t done = 0; done < bytes;) {
    await(socket, out ? POLLOUT : POLLIN, deadline, what);
    const ssize_t n = out ? ::send(socket.handle(), data + done, bytes - done, MSG_NOSIGNAL)
                          : ::recv(socket.handle(), data + done, bytes - done, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    require(n > 0, ExitCode::kComm, "{}: the other rank closed its connection", what);
    done += size_t(n);
  }
}

}  // namespace

Socket::~Socket() {
  if (handle_ >= 0) ::close(handle_);
}
Socket& Socket::operator=(Socket&& other) noexcept {
  if (handle_ >= 0) ::close(handle_);
  handle_ = other.release();
  return *this;
}

Address parse_address(const std::string& text) {
  const size_t colon = text.rfind(':');
  require(colon != std::string::npos && colon > 0 && colon + 1 < text.size(), ExitCode::kUsage,
          "found the address '{}', expected host:port", text);
  return {text.substr(0, colon), text.substr(colon + 1)};
}

Socket listen_on(const std::string& port) {
  const Found found(nullptr, port, AI_PASSIVE);
  std::string error;
  for (const addrinfo* entry = found.list; entry != nullptr; entry = entry->ai_next) {
    Socket socket(::socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol));
    const int yes = 1;
    if (!socket) continue;
    ::setsockopt(socket.handle(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (::bind(socket.handle(), entry->ai_addr, entry->ai_addrlen) == 0 &&
        ::listen(socket.handle(), 1024) == 0)
      return socket;
    error = std::strerror(errno);
  }
  fail(ExitCode::kComm, "cannot listen on port {}: {}", port, error);
}

int port_of(const Socket& socket) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  ::getsockname(socket.handle(), reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

std::string peer_host(const Socket& socket) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  char host[NI_MAXHOST] = {};
  ::getpeername(socket.handle(), reinterpret_cast<sockaddr*>(&address), &length);
  ::getnameinfo(reinterpret_cast<sockaddr*>(&address), length, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  return host;
}

Socket accept_one(const Socket& listener, Deadline deadline, const std::string& what) {
  await(listener, POLLIN, deadline, what);
  Socket socket(::accept4(listener.handle(), nullptr, nullptr, SOCK_CLOEXEC));
  require(bool(socket), ExitCode::kComm, "{}: {}", what, std::strerror(errno));
  return socket;
}

Socket connect_to(const Address& address, Deadline deadline, const std::string& what) {
  constexpr auto kPause = std::chrono::milliseconds(20);
  while (true) {
    const Found found(address.host.c_str(), address.port, 0);
    for (const addrinfo* entry = found.list; entry != nullptr; entry = entry->ai_next) {
      Socket socket(::socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol));
      if (socket && ::connect(socket.handle(), entry->ai_addr, entry->ai_addrlen) == 0) return socket;
    }
    require(left_ms(deadline) > 0, ExitCode::kComm, "{}: nobody listens at {}:{}", what, address.host,
            address.port);
    std::this_thread::sleep_for(kPause);
  }
}

void send_record(const Socket& socket, const std::string& text, Deadline deadline, const std::string& what) {
  uint64_t length = text.size();
  std::string record(reinterpret_cast<char*>(&length), sizeof length);
  record += text;
  transfer(socket, record.data(), record.size(), true, deadline, what);
}

std::string receive_record(const Socket& socket, Deadline deadline, const std::string& what) {
  constexpr uint64_t kMost = uint64_t(64) << 20;
  uint64_t length = 0;
  transfer(socket, reinterpret_cast<char*>(&length), sizeof length, false, deadline, what);
  require(length <= kMost, ExitCode::kComm,
          "{}: found a record of {} bytes; does another program use this port?", what, length);
  std::string text(length, '\0');
  transfer(socket, text.data(), text.size(), false, deadline, what);
  return text;
}

}  // namespace cadre::comm
