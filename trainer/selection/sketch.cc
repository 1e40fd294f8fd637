#include "trainer/selection/sketch.h"

#include "parallel/base/rng.h"

namespace cadre::trainer {

void Sketcher::add(const std::string& tensor, int64_t begin, std::span<const float> values,
                   std::span<double> sketch) const {
  const uint64_t key = base::mix(seed_, base::hash_name(tensor));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t bits = base::mix(key, uint64_t(begin) + i);
    // The high half of a 64-bit product: a place without a division, from the upper 32 bits; the sign from the lowest.
    const auto place = size_t(((bits >> 32) * uint64_t(size_)) >> 32);
    sketch[place] += (bits & 1) != 0 ? double(values[i]) : -double(values[i]);
  }
}

double dot(std::span<const double> x, std::span<const double> y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace cadre::trainer
