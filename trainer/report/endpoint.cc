#include "trainer/report/endpoint.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "parallel/base/errors.h"

namespace cadre::report {
namespace {

// The text between quotes of a label: backslash, quote and newline are escaped.
std::string label(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

void set_time_limit(int connection) {
  const timeval limit = {.tv_sec = 1, .tv_usec = 0};  // a slow client must not keep the others waiting
  setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

// The request up to its empty line; empty when it is too long, too slow or cut off.
std::string read_request(int connection) {
  constexpr size_t kLongest = 8192;
  std::string request;
  char block[1024];
  while (request.find("\r\n\r\n") == std::string::npos) {
    const ssize_t n = recv(connection, block, sizeof block, 0);
    if (n <= 0 || request.size() > kLongest) return "";
    request.append(block, size_t(n));
  }
  return request;
}

std::string response(const std::string& status, const std::string& body) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n"
      "Connection: close\r\n\r\n{}",
      status, body.size(), body);
}

}  // namespace

Endpoint::Endpoint(const std::string& address, int port) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(uint16_t(port));
  require(inet_pton(AF_INET, address.c_str(), &where.sin_addr) == 1, ExitCode::kUsage,
          "log.prometheus_address is '{}', expected an IPv4 address such as 127.0.0.1", address);
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);  // a restarted run comes back at once
  const bool listening = bind(listener_, reinterpret_cast<const sockaddr*>(&where), sizeof where) == 0 &&
                         listen(listener_, 16) == 0;
  const int error = errno;
  if (!listening) close(listener_);
  require(listening, ExitCode::kUsage, "cannot listen on {}:{} for Prometheus: {}; change log.prometheus",
          address, port, std::strerror(error));
  socklen_t size = sizeof where;
  getsockname(listener_, reinterpret_cast<sockaddr*>(&where), &size);
  port_ = ntohs(where.sin_port);
  wake_ = eventfd(0, EFD_CLOEXEC);
  thread_ = std::thread([this] { serve(); });
}

Endpoint::~Endpoint() {
  const uint64_t one = 1;
  (void)!write(wake_, &one, sizeof one);
  thread_.join();
  close(listener_);
  close(wake_);
}

void Endpoint::line(const nlohmann::json& line) {
  const std::lock_guard lock(mutex_);
  if (line.value("kind", "") == "event") {
    ++events_[line.value("event", "")];
    return;
  }
  gauges_["step"][""] = line.value("step", 0.0);
  for (const Scalar& s : scalars(line)) gauges_[s.name][s.part] = s.value;
}

std::string Endpoint::text() const {
  const std::lock_guard lock(mutex_);
  std::string out;
  for (const auto& [name, parts] : gauges_) {
    out += fmt::format("# TYPE cadre_{} gauge\n", name);
    for (const auto& [part, value] : parts) {
      out += part.empty() ? fmt::format("cadre_{} {}\n", name, value)
                          : fmt::format("cadre_{}{{domain=\"{}\"}} {}\n", name, label(part), value);
    }
  }
  if (!events_.empty()) out += "# TYPE cadre_events_total counter\n";
  for (const auto& [event, count] : events_) {
    out += fmt::format("cadre_events_total{{event=\"{}\"}} {}\n", label(event), count);
  }
  return out;
}

void Endpoint::serve() {
  for (;;) {
    pollfd watched[] = {{listener_, POLLIN, 0}, {wake_, POLLIN, 0}};
    if (poll(watched, 2, -1) < 0 && errno != EINTR) return;
    if (watched[1].revents != 0) return;
    if ((watched[0].revents & POLLIN) == 0) continue;
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) continue;
    set_time_limit(connection);
    answer(connection);
    close(connection);
  }
}

void Endpoint::answer(int connection) const {
  const std::string request = read_request(connection);
  if (request.empty()) return;
  std::string reply = response("200 OK", "");
  if (!request.starts_with("GET ")) {
    reply = response("405 Method Not Allowed", "only GET\n");
  } else if (!request.starts_with("GET /metrics ")) {
    reply = response("404 Not Found", "only /metrics\n");
  } else {
    reply = response("200 OK", text());
  }
  for (size_t sent = 0; sent < reply.size();) {
    const ssize_t n = send(connection, reply.data() + sent, reply.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;
    sent += size_t(n);
  }
}

}  // namespace cadre::report
