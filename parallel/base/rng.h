// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A value is a pure function of (key, counter), so results do not depend on threads, ranks or order of calls.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace cadre::base {

// SplitMix64's finaliser; mixes words into a key. mix(a, b) != mix(b, a).
constexpr uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
constexpr uint64_t mix(uint64_t a, uint64_t b) {
  return mix(mix(a) ^ b);
}

// FNV-1a, for turning names into keys. Not for integrity.
constexpr uint64_t hash_name(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return h;
}

class Philox {
 public:
  explicit constexpr Philox(uint64_t key) : key_(key) {}

  // Four 32-bit words for a 128-bit counter.
  constexpr std::array<uint32_t, 4> words(uint64_t counter, uint64_t stream = 0) const {
    std::array<uint32_t, 4> c = {uint32_t(counter), uint32_t(counter >> 32), uint32_t(stream),
                                 uint32_t(stream >> 32)};
    uint32_t k0 = uint32_t(key_), k1 = uint32_t(key_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
      c = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k1, uint32_t(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  constexpr uint64_t bits(uint64_t counter, uint64_t stream = 0) const {
    const auto w = words(counter, stream);
    return (uint64_t(w[1]) << 32) | w[0];
  }

  // Uniform in [0, 1) with 53 bits.
  constexpr double uniform(uint64_t counter, uint64_t stream = 0) const {
    return double(bits(counter, stream) >> 11) * 0x1.0p-53;
  }

  // Standard normal by Box-Muller; one value a counter, so element i never depends on element i-1.
  double normal(uint64_t counter, uint64_t stream = 0) const {
    const auto w = words(counter, stream);
    const double u = (double((uint64_t(w[1]) << 32 | w[0]) >> 11) + 0.5) * 0x1.0p-53;
    const double v = double((uint64_t(w[3]) << 32 | w[2]) >> 11) * 0x1.0p-53;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * v);
  }

 private:
  uint64_t key_;
};

}  // namespace cadre::base
