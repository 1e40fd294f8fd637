#include "parallel/device/sharding.h"

#include <algorithm>

namespace cadre::device {

int Turns::place(int bucket, int num_buckets) {
  if (bucket == 0) return 0;
  return bucket + 1 == num_buckets ? 1 : 2 + (bucket - 1) % kInTurn;
}

Turns::Turns(const std::vector<int64_t>& bucket_sizes) {
  const int buckets = int(bucket_sizes.size());
  std::vector<int64_t> room(size_t(kPlaces), 0), start(room.size(), 0);
  for (int b = 0; b < buckets; ++b) {
    int64_t& most = room[size_t(place(b, buckets))];
    most = std::max(most, bucket_sizes[size_t(b)]);
  }
  constexpr int64_t kAlign = 64;  // elements: what matrix products and packed loads like
  for (size_t p = 0; p < room.size(); ++p) {
    start[p] = size_;
    size_ += (room[p] + kAlign - 1) / kAlign * kAlign;
  }
  for (int b = 0; b < buckets; ++b) begins_.push_back(start[size_t(place(b, buckets))]);
}

}  // namespace cadre::device
