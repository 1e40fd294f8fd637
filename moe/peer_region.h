// What a rank of an expert group lays where the others read it: one region of comm::PeerMemory, whose two parts take turns.
// The lower one is written in the rounds to experts, the upper one in the rounds home.
#pragma once

#include "moe/dispatch.h"

namespace cadre::moe {

template <class T>
class PeerRegion {
 public:
  using W = device::wide_t<T>;
  PeerRegion(comm::PeerMemory& peers, const DispatchShape& shape);
  // Collective when the arenas have their memory: takes the region then, if a larger one is needed.
  void reserve(device::Queue& queue, bool measuring);
  size_t boundary() const { return sums_; }  // of the two parts, for PeerMemory::enter

  device::View<T, 2> rows(int64_t tokens) const { return own<T, 2>(rows_, {tokens, shape_.dim}); }
  StagedSlots<T> slots() const;
  device::View<T, 2> sums() const {
    return own<T, 2>(sums_, {peers_.size() * shape_.max_tokens, shape_.dim});
  }
  device::View<W, 2> gate_grads() const { return own<W, 2>(gates_, {peers_.size(), shape_.max_slots}); }

  // The same of all ranks; of the last two what is there for this rank.
  PeerArrays<T> all_rows() const { return all<T>(rows_, 0); }
  PeerSlots<T> all_slots() const {
    return {all<int64_t>(offsets_, 0), all<int32_t>(token_, 0), all<W>(gate_, 0)};
  }
  PeerArrays<T> all_sums() const { return all<T>(sums_, peers_.rank() * shape_.max_tokens * shape_.dim); }
  PeerArrays<W> all_gate_grads() const { return all<W>(gates_, peers_.rank() * shape_.max_slots); }

 private:
  template <class U, int N>
  device::View<U, N> own(size_t place, std::array<int64_t, N> shape) const {
    return {reinterpret_cast<U*>(peers_.at(peers_.rank()) + place), shape};
  }
  // The array that stands `skip` elements behind this place, of every rank.
  template <class U>
  PeerArrays<U> all(size_t place, int64_t skip) const;

  comm::PeerMemory& peers_;
  DispatchShape shape_;
  // Bytes. S: places for slots of one rank.
  size_t rows_;                    // (T, D) tokens, or gradients of their outputs
  size_t offsets_, token_, gate_;  // (E + 1), (S), (S) of the routing
  size_t sums_;                    // (P T, D) for each rank's tokens
  size_t gates_;                   // (P, S) gradients by the slots of each rank
  size_t bytes_ = 0;
};

template <class T>
template <class U>
PeerArrays<U> PeerRegion<T>::all(size_t place, int64_t skip) const {
  PeerArrays<U> arrays;
  arrays.ranks = peers_.size();
  arrays.self = peers_.rank();
  for (int r = 0; r < arrays.ranks; ++r)
    arrays.of[r] = reinterpret_cast<const U*>(peers_.at(r) + place) + skip;
  return arrays;
}

extern template class PeerRegion<float>;
extern template class PeerRegion<double>;
extern template class PeerRegion<device::bf16>;

}  // namespace cadre::moe
