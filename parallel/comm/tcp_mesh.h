// Sockets between all pairs of processes, and the meeting at which they find each other: at an address where rank 0
// listens, or through a file that all can read, in which rank 0 leaves its address. Messages are framed; what arrives
// is kept until somebody asks for it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace cadre::comm {

// Who sent what: the communicator's number, the number of the call on it, and the sender's world rank.
struct MessageKey {
  uint64_t communicator, call;
  int sender;
  auto operator<=>(const MessageKey&) const = default;
};

class TcpMesh {
 public:
  // `meeting`: "host:port", where rank 0 listens, or "file:PATH" (rank 0 replaces it; a file that an earlier run left
  // must be gone before ranks start). Returns when all are connected; throws Error(kComm) after the timeout.
  TcpMesh(int rank, int ranks, const std::string& meeting, std::chrono::milliseconds timeout);
  ~TcpMesh();  // sends what is still queued
  TcpMesh(const TcpMesh&) = delete;
  TcpMesh& operator=(const TcpMesh&) = delete;
  int rank() const { return rank_; }
  int ranks() const { return int(hosts_.size()); }
  const std::vector<std::string>& hosts() const { return hosts_; }  // names, by rank

  void send(int peer, uint64_t communicator, uint64_t call, const std::byte* data, size_t bytes);
  // Moves bytes in both directions, waiting at most so long for something to move. Throws Error(kComm) when a rank
  // is gone whose messages may still be wanted.
  void progress(std::chrono::milliseconds patience);
  // The message, if it is there: it is taken out.
  bool take(const MessageKey& key, std::vector<std::byte>& message);

 private:
  struct Peer {
    int socket = -1;
    std::deque<std::vector<std::byte>> out;
    size_t out_at = 0;  // of the first
    std::vector<std::byte> in;
    bool gone = false;
  };
  void meet(const std::string& meeting, std::chrono::milliseconds timeout);
  void write_some(Peer& peer);
  void read_some(int rank);
  void close_all();

  int rank_;
  std::vector<std::string> hosts_;
  std::vector<Peer> peers_;
  std::map<MessageKey, std::vector<std::byte>> arrived_;
};

}  // namespace cadre::comm
