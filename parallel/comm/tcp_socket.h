// What is needed of sockets to meet: listening, connecting with patience, and whole records in one direction.
#pragma once

#include <chrono>
#include <string>
#include <utility>

namespace cadre::comm {

using Deadline = std::chrono::steady_clock::time_point;

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
Address parse_address(const std::string& text);  // "host:port"; throws Error(kUsage)

Socket listen_on(const std::string& port);  // all interfaces; "0": any port
int port_of(const Socket& socket);
std::string peer_host(const Socket& socket);  // the numeric address of the other end
Socket accept_one(const Socket& listener, Deadline deadline, const std::string& what);
Socket connect_to(const Address& address, Deadline deadline,
                  const std::string& what);  // tries until the deadline
// A record is its length and its text.
void send_record(const Socket& socket, const std::string& text, Deadline deadline, const std::string& what);
std::string receive_record(const Socket& socket, Deadline deadline, const std::string& what);

}  // namespace cadre::comm
