// Sketches: random projections of vectors in parameter space to a few thousand numbers that keep dot products. Each element
// goes to one of `size` places with a random sign (the count sketch of Charikar et al. 2002): E <Sx, Sy> = <x, y>, with the
// variance of a dense projection by +-1/sqrt(size) or less, at one addition an element. Place and sign are a function of
// (seed, tensor, element), so nothing is stored, and sketches made on any layout agree.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace cadre::trainer {

class Sketcher {
 public:
  Sketcher(int64_t size, uint64_t seed) : size_(size), seed_(seed) {}
  // Adds elements [begin, begin + values.size()) of a tensor to `sketch` (size), in their order.
  void add(const std::string& tensor, int64_t begin, std::span<const float> values,
           std::span<double> sketch) const;
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  uint64_t seed_;
};

double dot(std::span<const double> x, std::span<const double> y);

}  // namespace cadre::trainer
