// What of a group's parameters a rank keeps only in part (ZeRO, Rajbhandari et al. 2020, section 5): slices that it owns,
// and buckets that take turns in a few places while somebody works with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cadre::device {

// Elements [group_offset, group_offset + count) of a group's flat buffer, which this rank updates. They stand at
// state_offset of memory that holds a rank's own elements alone.
struct OwnedRange {
  int64_t group_offset = 0, state_offset = 0, count = 0;
  OwnedRange part(int64_t begin, int64_t n) const { return {group_offset + begin, state_offset + begin, n}; }
};

// Of one group. What is not sharded is whole on this rank.
struct Sharding {
  std::vector<OwnedRange> owned;  // by bucket; state offsets follow one another
  bool masters = false;           // where the device stores values in a narrower type
  bool grads = false, values = false;
  int64_t owned_size() const { return owned.empty() ? 0 : owned.back().state_offset + owned.back().count; }
};

// Where buckets stand that take turns in memory. Both halves of two layers have room at a time: one is computed with,
// the other on its way. The first bucket and the last one have places of their own, since a tied head reads the
// embedding between all others.
class Turns {
 public:
  static constexpr int kInTurn = 4, kPlaces = 2 + kInTurn;
  Turns() = default;
  explicit Turns(const std::vector<int64_t>& bucket_sizes);  // elements, by bucket
  // Buckets of the same place are never there together.
  static int place(int bucket, int num_buckets);
  int64_t begin(int bucket) const { return begins_[size_t(bucket)]; }
  int64_t size() const { return size_; }

 private:
  std::vector<int64_t> begins_;
  int64_t size_ = 0;
};

}  // namespace cadre::device
