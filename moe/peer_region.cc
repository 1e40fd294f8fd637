#include "moe/peer_region.h"

#include "parallel/device/bf16.h"

namespace cadre::moe {

template <class T>
PeerRegion<T>::PeerRegion(comm::PeerMemory& peers, const DispatchShape& shape)
    : peers_(peers), shape_(shape) {
  const auto place = [this](int64_t count, size_t each) {
    constexpr size_t kAlignment = 256;
    const size_t at = bytes_;
    bytes_ += (size_t(count) * each + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  };
  rows_ = place(shape.max_tokens * shape.dim, sizeof(T));
  offsets_ = place(shape.num_experts + 1, sizeof(int64_t));
  token_ = place(shape.max_slots, sizeof(int32_t));
  gate_ = place(shape.max_slots, sizeof(W));
  sums_ = place(peers.size() * shape.max_tokens * shape.dim, sizeof(T));
  gates_ = place(peers.size() * shape.max_slots, sizeof(W));
}

template <class T>
void PeerRegion<T>::reserve(device::Queue& queue, bool measuring) {
  peers_.want(bytes_);
  if (!measuring) peers_.reserve(queue, bytes_);
}

template <class T>
StagedSlots<T> PeerRegion<T>::slots() const {
  return {.offsets = own<int64_t, 1>(offsets_, {shape_.num_experts + 1}),
          .token = own<int32_t, 1>(token_, {shape_.max_slots}),
          .gate = own<W, 1>(gate_, {shape_.max_slots})};
}

template class PeerRegion<float>;
template class PeerRegion<double>;
template class PeerRegion<device::bf16>;

}  // namespace cadre::moe
