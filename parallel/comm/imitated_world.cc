// One rank of a world whose other ranks do not run: what would come from them is what this rank has itself
// (Communicator::set_imitation), for good. It takes the time and the memory of a rank of a large run on a machine that has
// none, but for the wire and what transports keep.
#include <cstdlib>

#include "parallel/comm/transports.h"

namespace cadre::comm {
namespace {

class ImitatedCommunicator final : public Communicator {
 public:
  ImitatedCommunicator(const std::string& name, int ranks, const ImitatedWire* wire)
      : Communicator(name), ranks_(ranks), wire_(wire) {
    set_imitation(true);
  }
  const ImitatedWire* wire() const { return wire_; }
  int rank() const override { return 0; }
  int size() const override { return ranks_; }

  Request all_to_all(const void* send, std::span<const int64_t> send_counts,
                     std::span<const int64_t> send_displs, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view) override {
    imitate_all_to_all(send, send_counts, send_displs, receive, receive_counts, receive_displs, dtype);
    return {};
  }
  Request all_gather(const void* send, int64_t send_count, void* receive,
                     std::span<const int64_t> receive_counts, std::span<const int64_t> receive_displs,
                     Dtype dtype, std::string_view) override {
    imitate_all_gather(send, send_count, receive, receive_counts, receive_displs, dtype);
    return {};
  }
  Request broadcast(void*, int64_t, int, Dtype, std::string_view) override { return {}; }

 private:
  int ranks_;
  const ImitatedWire* wire_;
};

class ImitatedWorld final : public World {
 public:
  ImitatedWorld(int ranks, const ImitatedWire* wire) : ranks_(ranks), wire_(wire) {}
  int rank() const override { return 0; }
  int size() const override { return ranks_; }
  int local_size() const override { return 1; }  // who runs here
  int local_rank() const override { return 0; }

  std::unique_ptr<Communicator> split(const Colors& color_of, const std::string& name) override {
    int members = 0;
    for (int r = 0; r < ranks_; ++r) members += color_of(r) == color_of(0) ? 1 : 0;
    if (members == 1) return make_local_communicator(name);
    return std::make_unique<ImitatedCommunicator>(name, members, wire_);
  }
  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  int ranks_;
  const ImitatedWire* wire_;
};

}  // namespace

std::unique_ptr<World> make_imitated_world(int ranks, const ImitatedWire* wire) {
  return std::make_unique<ImitatedWorld>(ranks, wire);
}

const ImitatedWire* imitated_wire(const Communicator& communicator) {
  const auto* imitated = dynamic_cast<const ImitatedCommunicator*>(&communicator);
  return imitated ? imitated->wire() : nullptr;
}

}  // namespace cadre::comm
