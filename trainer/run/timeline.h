// What of a step's collectives nothing hides, from the times of its buckets: the order of docs/design.md, "One step",
// as arithmetic.
#pragma once

#include <vector>

namespace cadre::trainer {

// Milliseconds of one bucket on one rank; gradients and values are on their way one bucket after the other.
struct BucketTimes {
  double forward = 0, backward = 0, update = 0;
  double gradients = 0, values = 0;  // 0: nobody else holds the bucket
};

// Buckets have their gradients from the last to the first. How much later than the end of the backward pass the last
// sums are in.
double exposed_gradients(const std::vector<BucketTimes>& buckets);
// Buckets are updated from the first to the last, then for own_update ms what no other rank waits for; a bucket's values
// leave when it is updated. How much longer update and forward pass take than without waiting for values.
double exposed_values(const std::vector<BucketTimes>& buckets, double own_update);
// The same as exposed_gradients where values are sharded and come again for the backward pass, up to two buckets before
// they are needed, on the same wire. Those of the head, the embedding and the last two layers are still there.
double exposed_backward(const std::vector<BucketTimes>& buckets);

}  // namespace cadre::trainer
