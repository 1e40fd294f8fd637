#include "trainer/run/timeline.h"

#include <algorithm>

namespace cadre::trainer {

double exposed_gradients(const std::vector<BucketTimes>& buckets) {
  double computed = 0, summed = 0;
  for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket) {
    computed += bucket->backward;
    if (bucket->gradients > 0) summed = std::max(summed, computed) + bucket->gradients;
  }
  return std::max(0.0, summed - computed);
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
