// Signatures for near duplicates: one-permutation MinHash (Li, Owen and Zhang, NIPS 2012) of word 5-grams
// with optimal densification (Shrivastava, ICML 2017), 16 bits a bin (b-bit minwise hashing, Li and Koenig
// 2010). The share of equal bins of two signatures estimates the Jaccard similarity of the two sets of
// 5-grams (standard error <= 4.5%).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace cadre::data {

constexpr int kSignatureBins = 128;
using Signature = std::array<uint16_t, kSignatureBins>;

// Words are runs of letters, digits and non-ASCII characters, ASCII letters folded to lower case; characters
// of three and four bytes (Chinese, Thai, ...) are words of their own. A text of fewer than 5 words is one
// gram.
Signature minhash(std::string_view text);

double estimate_jaccard(const Signature& a, const Signature& b);

// Locality-sensitive hashing: `bands` groups of `rows` bins; documents that agree in a whole group are
// compared. A pair of similarity s is found with probability 1 - (1 - s^rows)^bands.
struct Banding {
  int bands = 0, rows = 0;
};
// The largest rows, and so the fewest needless comparisons, that finds a pair at the threshold with at least
// 95%: 18 bands of 7 rows for 0.8 (98.6%).
Banding choose_banding(double threshold);

// Key of one band; equal exactly when (but for 2^-64) domain, band and rows are equal.
uint64_t band_key(const Signature& signature, const Banding& banding, int band, uint64_t domain_hash);

}  // namespace cadre::data
