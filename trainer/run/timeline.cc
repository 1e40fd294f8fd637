#include "trainer/run/timeline.h"

#include <algorithm>

#include "parallel/device/sharding.h"

namespace cadre::trainer {

double exposed_gradients(const std::vector<BucketTimes>& buckets) {
  double computed = 0, summed = 0;
  for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket) {
    computed += bucket->backward;
    if (bucket->gradients > 0) summed = std::max(summed, computed) + bucket->gradients;
  }
  return std::max(0.0, summed - computed);
}

double exposed_backward(const std::vector<BucketTimes>& buckets) {
  const int count = int(buckets.size()), here = count - 1 - device::Turns::kInTurn;
  double now = 0, wire = 0, backward = 0;
  std::vector<double> arrived(buckets.size(), 0.0);
  int next = here - 1;  // the bucket whose values leave next
  for (int b = count - 1; b >= 0; --b) {
    for (; next >= std::max(1, b - 2); --next)
      arrived[size_t(next)] = wire = std::max(wire, now) + buckets[size_t(next)].values;
    now = std::max(now, arrived[size_t(b)]) + buckets[size_t(b)].backward;
    backward += buckets[size_t(b)].backward;
    if (buckets[size_t(b)].gradients > 0) wire = std::max(wire, now) + buckets[size_t(b)].gradients;
  }
  return std::max(0.0, std::max(now, wire) - backward);
}

double exposed_values(const std::vector<BucketTimes>& buckets, double own_update) {
  double updated = 0, arrived = 0, forward = 0;
  std::vector<double> arrivals;
  for (const BucketTimes& bucket : buckets) {
    updated += bucket.update;
    forward += bucket.forward;
    if (bucket.values > 0) arrived = std::max(arrived, updated) + bucket.values;
    arrivals.push_back(bucket.values > 0 ? arrived : 0);
  }
  updated += own_update;
  double now = updated;
  for (size_t b = 0; b < buckets.size(); ++b) now = std::max(now, arrivals[b]) + buckets[b].forward;
  return std::max(0.0, now - updated - forward);  // sums in another order may differ by a rounding
}

}  // namespace cadre::trainer
