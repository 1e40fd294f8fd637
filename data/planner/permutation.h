// A permutation of 0 .. size-1 with random access and no memory: a Feistel network on the smallest even
// number of bits that holds size, walked along its cycle until it lands below size (Black & Rogaway, "Ciphers
// with arbitrary finite domains", 2002). The network's domain is at most 4 times size, so at most 4
// applications are needed on average.
#pragma once

#include <cstdint>

namespace cadre::data {

class Permutation {
 public:
  Permutation(uint64_t size, uint64_t key);
  uint64_t operator()(uint64_t index) const;  // index < size

 private:
  uint64_t apply(uint64_t x) const;

  uint64_t size_, key_, half_mask_;
  int half_bits_;
};

}  // namespace cadre::data
