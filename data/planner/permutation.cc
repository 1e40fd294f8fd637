// The Feistel network behind Permutation.
#include "data/planner/permutation.h"

#include <bit>
#include <cassert>

#include "parallel/base/rng.h"

namespace cadre::data {
namespace {
// Four rounds make a good cipher of a good round function; eight cost little and help when a half is one or
// two bits.
constexpr uint64_t kRounds = 8;
}  // namespace

Permutation::Permutation(uint64_t size, uint64_t key) : size_(size), key_(key) {
  assert(size > 0);
  half_bits_ = (std::bit_width(size - 1) + 1) / 2;
  half_mask_ = (uint64_t(1) << half_bits_) - 1;
}

uint64_t Permutation::apply(uint64_t x) const {
  uint64_t left = x >> half_bits_, right = x & half_mask_;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const uint64_t mixed = base::mix(base::mix(key_, round), right) & half_mask_;
    const uint64_t next = left ^ mixed;
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t Permutation::operator()(uint64_t index) const {
  assert(index < size_);
  uint64_t x = apply(index);
  while (x >= size_) x = apply(x);
  return x;
}

}  // namespace cadre::data
