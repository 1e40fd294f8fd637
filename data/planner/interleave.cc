// Spreading streams over a batch.
#include "data/planner/interleave.h"

#include <algorithm>
#include <tuple>

#include "parallel/base/rng.h"

namespace cadre::data {

std::vector<int> interleave(const std::vector<int64_t>& counts, uint64_t key) {
  const base::Philox random(key);
  std::vector<std::tuple<uint64_t, int, uint64_t>> places;  // (position in units of 2^-32 batches, stream, i)
  for (size_t stream = 0; stream < counts.size(); ++stream) {
    const uint64_t count = static_cast<uint64_t>(counts[stream]);
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t within = random.words(i, stream)[0];
      places.emplace_back(((i << 32) + within) / count, static_cast<int>(stream), i);
    }
  }
  std::sort(places.begin(), places.end());
  std::vector<int> order;
  for (const auto& place : places) order.push_back(std::get<1>(place));
  return order;
}

}  // namespace cadre::data
