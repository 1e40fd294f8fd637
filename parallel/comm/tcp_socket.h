// What is needed of sockets to meet: listening, connecting with patience, and whole records in one direction. What fails
// throws Error(kComm), or Error(kUsage) for an address that is none; `what` begins the message: who waits for whom.
#pragma once

#include <chrono>
#include <string>
#include <utility>

namespace cadre::comm {

using Deadline = std::chrono::steady_clock::time_point;

// Owns a handle of the system's; empty: none.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int handle) : handle_(handle) {}
  ~Socket();
  Socket(Socket&& other) noexcept : handle_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept;
  int handle() const { return handle_; }
  int release() { return std::exchange(handle_, -1); }
  explicit operator bool() const { return handle_ >= 0; }

 private:
  int handle_ = -1;
};

struct Address {
  std::string host;
  std::string port;
};
Address parse_address(const std::string& text);  // "host:port"

Socket listen_on(const std::string& port);  // all interfaces; "0": any port
int port_of(const Socket& socket);
std::string peer_host(const Socket& socket);  // the numeric address of the other end
Socket accept_one(const Socket& listener, Deadline deadline, const std::string& what);
Socket connect_to(const Address& address, Deadline deadline,
                  const std::string& what);  // tries until the deadline
// A record is its length and its text. Both end when all of it is over, or fail at the deadline.
void send_record(const Socket& socket, const std::string& text, Deadline deadline, const std::string& what);
std::string receive_record(const Socket& socket, Deadline deadline, const std::string& what);

}  // namespace cadre::comm
